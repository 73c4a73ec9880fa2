"""papers/tables/custom_diffusion.py: the protocols, on pictures whose truth is known: renders in place of samples."""
import argparse
import importlib
import json

import pytest
import torch
from tables import custom_diffusion as tables
from tables import customization_analysis

from minidiff import toybox
from minidiff.checkpoints import write_json, write_tensors

ARGS = argparse.Namespace(model="toybox", device=None, seed=0, sampling=2, guidance=5.0, repeats=1, pictures=2, table="main", methods=None)


@pytest.fixture(scope="module")
def judge():
    return tables.Judge.fit("chair", "object", n=25)


@pytest.fixture
def bench(tmp_path, judge, monkeypatch):
    """A Bench whose trainings cost nothing and whose samples are renders: of the individual, if the prompt names it, else of the class."""
    monkeypatch.setattr(tables, "GROUNDS", ("garden", "night", "purple"))
    monkeypatch.setattr(tables, "SINGLE", ["a {} in a garden", "a {} at night", "a {} on a purple background", "a {} next to a yellow guitar"])
    tables.class_features.cache_clear()
    made = tables.Bench(argparse.Namespace(**vars(ARGS) | {"out": tmp_path}))
    made.calls = []

    def script(file, verb, *arguments):
        made.calls.append((file, verb, *map(str, arguments)))
        out = arguments[arguments.index("--out") + 1]
        if verb == "train":
            return write_json(out / "metrics.json", {"seconds": 120.0, "bytes": 5_000_000})
        prompts = json.loads(arguments[arguments.index("--prompts") + 1].read_text())
        write_tensors(out / "samples.safetensors", {"images": drawn(prompts)})
    monkeypatch.setattr(made, "script", script)
    monkeypatch.setattr(made, "pipe", lambda prompts, *rest: drawn(prompts) / 255)
    monkeypatch.setattr(tables, "judge_of", lambda bench, concept, kind="object": judge)
    return made


def drawn(prompts):
    grounds = [g for g in tables.GROUNDS for _ in range(ARGS.pictures)]
    grounds = (grounds + ["red"] * 10)[:len(prompts) * ARGS.pictures]
    what = "individual" if "<new1>" in prompts[0] else "class"
    return (tables.renders("chair", len(grounds), 77, what, grounds=grounds) * 255).round().byte()


def test_the_judge_knows_fresh_renders_of_the_individual_from_ordinary_ones_and_from_others(judge):
    for what, want in (("individual", 1), ("class", 0), ("any", 0)):
        seen = judge(tables.renders("chair", 16, 99, what))
        assert abs(float(seen.double().mean()) - want) < .1, what
    out_of_shape = tables.scrambled(tables.renders("chair", 16, 99, "individual"), torch.Generator().manual_seed(1))
    assert float(judge(out_of_shape).double().mean()) < .1
    assert min(judge.accuracy.values()) > .9
    assert judge(toybox.held_out("chair", 5, 0).images).all() and not judge(toybox.held_out("cat", 5, 0).images).any()


def test_a_judge_of_pairs_looks_at_one_half():
    pictures = torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)])
    both = torch.cat([pictures[0, :, :, :32], pictures[1, :, :, :32]], dim=-1)[None]
    left, right = (tables.Judge.features(both, torch.tensor([side])) for side in (0, 1))
    like = [torch.nn.functional.cosine_similarity(half, tables.Judge.features(p[None])) for p in pictures for half in (left, right)]
    assert like[0] > like[1] and like[3] > like[2]


def test_in_pairs_the_individual_stands_left_and_right_in_turns():
    one = tables.renders("moongate", 4, 5, "individual", kind="pair")
    other = tables.renders("moongate", 4, 5, "individual", kind="pair")
    assert torch.equal(one, other) and one.shape == (4, 3, 64, 64)


def test_perfect_pictures_get_perfect_numbers(bench):
    row = tables.single_row(bench, "Custom Diffusion", "chair", 10)
    assert row["is it that one"] > .9 and row["likeness"] > .8 and row["right class"] > .9 and row["scene"] > .9 and row["class kept"] > .9
    assert abs(row["KID"]) < 400 and row["minutes"] == 2 and row["MB"] == 5
    plain = tables.single_row(bench, tables.BASE, "chair", 10)
    assert plain["is it that one"] < .1 and plain["minutes"] == plain["MB"] == 0
    assert row["image alignment"] > plain["image alignment"] + .05


def test_renders_show_what_learning_nothing_and_learning_everything_would_give(bench):
    nothing, everything = (tables.rendered_row(bench, name, "chair", 10) for name in tables.RENDERS)
    assert nothing["is it that one"] < .1 and everything["is it that one"] > .9
    assert everything["image alignment"] > nothing["image alignment"] + .05 and "class kept" not in everything
    assert min(nothing["scene"], everything["scene"]) == 1                      # ground by ground, in the order of the prompts


def test_every_method_gets_its_prompts_and_textual_inversion_leaves_the_class_alone(bench):
    inversion, base = (tables.single_row(bench, m, "chair", 10) for m in ("Textual Inversion", tables.BASE))
    assert [inversion[k] for k in ("KID", "class kept")] == [base[k] for k in ("KID", "class kept")]
    sampled, = [c for c in bench.calls if c[1] == "sample"]
    prompts = json.loads((bench.args.out.joinpath(*sampled[sampled.index("--prompts") + 1].split("/")[-3:])).read_text())
    assert sampled[0] == "textual_inversion.py" and prompts[0] == "a <new1> in a garden" and prompts[-1] == "a <new1> next to a yellow guitar"
    assert tables.noun("DreamBooth", "flower", 2) == "<new2> sunflower" and tables.noun(tables.BASE, "moongate") == "moon"


def test_pairs_are_learned_together_one_after_the_other_or_apart(bench):
    learn = lambda method: tables.PAIR_METHODS[method](bench, ("cat", "chair"), 10)
    assert learn(tables.BASE) == ([], [])
    used, trained = learn("Custom Diffusion, merged")
    assert used == trained and len(used) == 2
    used, trained = learn("Custom Diffusion, sequential")
    assert len(used) == 1 and len(trained) == 2 and trained[0] == learn("Custom Diffusion, merged")[0][0]
    assert bench.calls[-1][bench.calls[-1].index("--start-from") + 1] == str(trained[0])
    used, trained = learn("DreamBooth")
    assert used == trained and [bench.calls[-1][i + 1] for i, a in enumerate(bench.calls[-1]) if a == "--concept"] == ["cat", "chair"]
    n = len(bench.calls)
    learn("DreamBooth")
    assert len(bench.calls) == n                                                # what is there is not learned again


def test_every_method_sees_equally_many_given_pictures():
    for method, (file, options) in tables.METHODS.items():
        args = importlib.import_module(file[:-3]).arguments(["train", "--concept", "cat", *options])[1]
        of_the_concept = args.batch // 2 if file == "custom_diffusion.py" else args.batch               # half of its batch is of the class
        assert args.steps * of_the_concept == (2000 if "twice" in method else 500 if "half" in method else 1000), method


def test_a_training_that_was_stopped_is_done_again(bench, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(bench, "script", stop)
        bench.learned("DreamBooth", ["cat"], 10)
    assert bench.learned("DreamBooth", ["cat"], 10).is_dir() and len(bench.calls) == 1


def test_the_tables_are_made_and_put_together(bench, monkeypatch, capsys):
    monkeypatch.setattr(tables, "CONCEPTS", ("chair",))
    monkeypatch.setattr(tables, "Bench", lambda args: bench)
    monkeypatch.setattr(tables, "PAIRS", (("chair", "table"),))
    args = bench.args
    for args.table in ("main", "pairs"):
        tables.run(args)
    made = json.loads((args.out / "table.json").read_text())
    methods = [tables.BASE, "Textual Inversion", "DreamBooth", "DreamBooth, twice as long", "fine-tune all",
               "Custom Diffusion, half as long", "Custom Diffusion", *tables.RENDERS]
    assert [r["method"] for r in made["main"]["rows"]] == methods
    assert list(made) == ["main", "pairs"] and len(made["pairs"]["rows"]) == 7 and (args.out / "tables" / "main_chair.png").is_file()
    assert "both right" in (args.out / "table.md").read_text() and "| Custom Diffusion |" in capsys.readouterr().out
    with pytest.raises(ValueError, match="expected all or one of main, pairs, ablation, class"):
        tables.run(argparse.Namespace(**vars(args) | {"table": "nonsense"}))
    with pytest.raises(ValueError, match="--methods LoRA: expected some of untouched model"):
        tables.run(argparse.Namespace(**vars(args) | {"methods": ["LoRA"]}))
    for table, few in (("class", ["DreamBooth", "Custom Diffusion"]), ("pairs", ["DreamBooth", "Custom Diffusion, joint"])):
        bench.args.methods = few
        assert [row["method"] for row in tables.TABLES[table](bench)[2]] == few


def test_numbers_are_averaged_over_concepts_first_and_nan_is_left_out():
    nan = float("nan")
    assert tables.average([{"a": 1.0, "b": nan}, {"a": 3.0, "b": 5.0}]) == {"a": 2.0, "b": 5.0}
    assert tables.summary([{"KID": 1.0, "MB": .0123}, {"KID": 3.0, "MB": .0123}]) == {"KID": "2.0 ± 1.4", "MB": "0.012 ± 0.000"}


def test_the_rate_of_change_is_relative_to_each_layer_and_a_mean_over_its_group():
    before = {"a.attn2.to_k.weight": torch.ones(2, 2), "b.attn2.to_v.weight": 2 * torch.ones(2, 2), "c.attn1.to_q.weight": torch.ones(3, 3),
              "d.conv.weight": torch.ones(1, 1, 3, 3), "d.conv.bias": torch.ones(3)}
    after = {name: w + .5 for name, w in before.items()} | {"d.conv.weight": torch.ones(1, 1, 3, 3)}
    found = {group: [*of.values()] for group, of in customization_analysis.rate_of_change(before, after).items()}
    assert found == {"cross-attention": pytest.approx([.375, .5, 1.5]), "self-attention": pytest.approx([.5, .5, 1]), "the rest": [0, 0, 1]}
    bars = customization_analysis.bars({"x": .5, "y": 1.0}, "changes")
    width = lambda top: int((bars[2, top + 8] < .9).sum())
    assert bars.shape[0] == 3 and width(56) > 1.6 * width(30)


def test_a_method_that_fails_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "dreambooth.py").write_text("import sys\nsys.exit('no such ' + sys.argv[3])")
    monkeypatch.setattr(tables, "PAPERS", tmp_path)
    bench = tables.Bench(argparse.Namespace(**vars(ARGS) | {"out": tmp_path}))
    with pytest.raises(ValueError, match="dreambooth.py sample --learned nowhere failed: no such nowhere"):
        bench.script("dreambooth.py", "sample", "--learned", "nowhere")
