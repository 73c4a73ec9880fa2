"""papers/prompt_to_prompt.py: the equations, what is edited and what is left alone, and the script from end to end."""
import itertools
import json

import prompt_to_prompt as paper
import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import minidiff
from minidiff.samplers import noise


@pytest.fixture(scope="module")
def pipe():
    return minidiff.load("toybox", "cpu")


def maps(seed, B=2, h=3, N=4, L=8):
    return torch.randn(B, h, N, L, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def run(pipe, *edits, steps=2, guidance=5.0, batch=16):
    return paper.prompt_to_prompt(pipe, list(edits), steps, guidance, batch)


# Sec. 3.2: alignment and mappers


@pytest.mark.parametrize("source, target, A", [
    ("a person", "an old person", [None, None, 1]),
    ("a red cat", "a red cat", [0, 1, 2]),
    ("a cat", "a red cat in a garden", [0, None, 1, None, None, None]),
    ("a person with short hair", "a person", [0, 1]),
    ("a dog", "a cat and a dog", [None, None, None, 0, 1]),
    ("green hills on a sunny day", "green hills in the rain", [0, 1, None, None, None]),
    ("a b", "b a", [None, 0]),
    ("a", "b", [None]),
    ("", "a", [None]),
])
def test_alignment(source, target, A):
    assert paper.align(source.split(), target.split()) == A


def longest_common(source, target):
    """By trying out all subsequences of the source, longest first."""
    def is_within(part):
        rest = iter(target)
        return all(token in rest for token in part)
    return next(n for n in range(len(source), -1, -1) if any(map(is_within, itertools.combinations(source, n))))


def test_alignment_is_the_best_monotone_one():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        source, target = (torch.randint(3, (int(n),), generator=generator).tolist() for n in torch.randint(7, (2,), generator=generator))
        A = paper.align(source, target)
        pairs = [(i, j) for j, i in enumerate(A) if i is not None]
        assert all(source[i] == target[j] for i, j in pairs) and pairs == sorted(set(pairs)) and len({i for i, _ in pairs}) == len(pairs)
        assert len(pairs) == longest_common(source, target)


def test_refinement_takes_each_known_token_from_one_place_and_padding_from_itself():
    mapper = paper.refinement_mapper([9, 1, 2, 8], [9, 3, 2, 2, 8], 8)
    assert mapper.sum(0).tolist() == [1, 0, 0, 1, 1, 1, 1, 1]         # a column: 1 for a known token, 0 for a new one
    assert mapper.argmax(0)[[0, 3, 4, 5, 6, 7]].tolist() == [0, 2, 3, 5, 6, 7]
    shorter = paper.refinement_mapper([9, 1, 2, 8], [9, 8], 6)
    assert shorter.sum(0).tolist() == [1, 1, 0, 0, 1, 1]              # no padding takes the map of a word


def test_swap_shares_the_maps_of_a_word_among_the_tokens_of_the_other():
    mapper = paper.swap_mapper([1, 2, 1, 1], [1, 3, 1, 1], 8)
    assert_close(mapper[1:3, 1:4], torch.full((2, 3), 1 / 3))
    assert mapper[3, 4] == mapper[4, 5] == mapper[6, 6] == mapper[7, 7] == 1
    assert_close(mapper[:5].sum(1), torch.ones(5))                    # a row: nothing of a token's attention is lost
    assert_close(mapper.sum(0), torch.tensor([1, 2 / 3, 2 / 3, 2 / 3, 1, 1, 1, 1]))
    assert torch.equal(paper.swap_mapper([1, 2, 1], [1, 2, 1], 8), torch.eye(8))


# Sec. 3.2: the edit of the maps


def test_the_edit_of_the_maps_is_that_of_a_slow_loop():
    M, M_star, c = maps(0), maps(1), torch.linspace(-2, 2, 16).reshape(2, 8)
    alpha = (torch.arange(16).reshape(2, 8) % 3 > 0).float()
    mapper = torch.stack([paper.refinement_mapper([9, 1, 2, 8], [9, 3, 2, 1, 8], 8), paper.swap_mapper([1, 2, 1], [1, 3, 1], 8)])
    expected = torch.empty_like(M)
    for b, h, i, j in itertools.product(*map(range, M.shape)):
        sources = [k for k in range(8) if mapper[b, k, j]]
        mapped = sum(M[b, h, i, k] * mapper[b, k, j] for k in sources) if sources else M_star[b, h, i, j]
        expected[b, h, i, j] = c[b, j] * (mapped if alpha[b, j] else M_star[b, h, i, j])
    assert_close(paper.edit_maps(M, M_star, mapper, c, alpha), expected)


def test_the_same_prompt_and_weights_of_1_give_the_maps_of_the_source_and_after_tau_their_own():
    M, M_star, ones, same = maps(0), maps(1), torch.ones(2, 8), torch.eye(8).expand(2, 8, 8)
    assert torch.equal(paper.edit_maps(M, M_star, same, ones, ones), M)
    assert torch.equal(paper.edit_maps(M, M_star, same, ones, 0 * ones), M_star)


def test_the_mask_is_where_the_words_are_and_a_pixel_around():
    seen = torch.zeros(2, 8, 8)
    seen[0, 2, 2], seen[0, 6, 6] = 10.0, 2.9                          # the second one stays below the threshold
    mask = paper.blend_mask(seen, (16, 16))
    expected = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    expected[0, 0, 2:8, 2:8] = True                                   # 3 x 3 pixels of the map, 6 x 6 of the latents
    assert torch.equal(mask, expected)                                # the second picture, without any: nowhere


# Plans


def test_the_schedules_hold_for_the_first_share_of_the_steps(pipe):
    plan = paper.plan(paper.Edit("a person", "an old person", cross={"default_": 0.8, "old": 0.4}, self_=0.3), pipe.tokenizer, 10)
    assert plan.alpha.sum(0)[[0, 1, 2, 3, 4, 31]].tolist() == [8, 8, 4, 8, 8, 8]
    assert plan.alpha[:8, 0].all() and plan.keep_self.tolist() == [True] * 3 + [False] * 7
    for share in (0.0, 1.0):
        plan = paper.plan(paper.Edit("a person", "an old person", cross=share, self_=share), pipe.tokenizer, 7)
        assert bool(plan.alpha.all()) == bool(plan.keep_self.all()) == bool(share) == bool(plan.alpha.any())


def test_weights_and_blended_words_stand_at_the_tokens_of_their_words(pipe):
    edit = paper.Edit("a person with short hair, smiling", "a person with glasses", reweight={"glasses": 2.0}, blend=["hair", "person"])
    plan = paper.plan(edit, pipe.tokenizer, 4)
    assert plan.c.tolist() == [1.0] * 4 + [2.0] + [1.0] * 27
    assert [row.nonzero().flatten().tolist() for row in plan.words] == [[2, 5], [2]]


def test_auto_swaps_if_there_are_as_many_words_and_refines_otherwise(pipe):
    length, mapper = pipe.tokenizer.length, lambda *prompts, mode="auto": paper.plan(paper.Edit(*prompts, mode), pipe.tokenizer, 2).mapper
    assert torch.equal(mapper("a red cat", "a blue dog"), torch.eye(length))
    assert mapper("a red cat", "a blue dog", mode="refine").sum(0)[:6].tolist() == [1, 1, 0, 0, 1, 1]
    assert mapper("a person", "an old person").sum(0)[:6].tolist() == [1, 0, 0, 1, 1, 1]
    longer = mapper("a red cat in a garden", "a red xyzzy in a garden")           # one word of several tokens
    n = len(pipe.tokenizer.encode("xyzzy"))
    assert n > 1 and longer[3, 3:3 + n].tolist() == [pytest.approx(1 / n)] * n and longer[4, 3 + n] == 1


# Alg. 1


def test_identical_prompts_give_the_source_to_the_bit_and_so_do_weights_of_1(pipe):
    source, edited = run(pipe, paper.Edit("a person", "a person", "swap", seeds=[3, 4]), paper.Edit("a person", "a person", "refine"),
                         paper.Edit("a person", "a person", reweight={"person": 1.0}), steps=3)
    assert source.shape == (4, 3, 64, 64) and torch.equal(source, edited)


def test_without_control_the_edit_is_a_plain_picture_of_the_target_and_the_source_is_one_of_the_source(pipe):
    source, edited = run(pipe, paper.Edit("a person", "an old person", cross=0.0, self_=0.0, seeds=[3, 4]))
    for pictures, prompt in ((source, "a person"), (edited, "an old person")):
        assert_close(pictures, pipe(prompt, n=2, steps=2, guidance=5.0, seed=3, eta=0.0), rtol=0, atol=1e-4)


def test_control_changes_the_edit_and_not_the_source(pipe):
    edit = lambda cross, self_, **more: paper.Edit("a person", "an old person", cross=cross, self_=self_, **more)
    source, edited = run(pipe, edit(0.0, 0.0), edit(1.0, 0.0), edit(0.0, 1.0), edit(0.0, 0.0, reweight={"old": 2.0}))
    assert_close(source, source[[0, 0, 0, 0]], rtol=0, atol=1e-5)
    for i in (1, 2, 3):
        assert (edited[i] - edited[0]).abs().max() > 0.02 < (edited[i] - source[i]).abs().max()


def test_several_edits_in_batches_of_any_size_are_those_made_one_by_one(pipe):
    edits = [paper.Edit("a person", "an old person", seeds=[5, 1]), paper.Edit("a red cat", "a blue cat", self_=1.0, blend=["cat"], seeds=[5])]
    alone, together = run(pipe, *edits, batch=1), run(pipe, *edits)
    assert_close(together, alone, rtol=0, atol=1e-4)


def test_only_the_last_rows_are_edited(pipe):
    """The predictions without a prompt and the source keep their maps, to the bit."""
    plan = paper.plan(paper.Edit("a person", "an old person", cross=1.0, self_=1.0, reweight={"old": 2.0}, blend=["old"]), pipe.tokenizer, 4)
    for before in (0, 4):
        control = paper.Control([plan, plan], "cpu")
        own = torch.randn(before + 4, 2, 16, 32, generator=torch.Generator().manual_seed(0)).softmax(-1)
        for edited in (control.cross(own), control.cross_seen(own)):
            assert torch.equal(edited[:-2], own[:-2]) and not torch.equal(edited[-2:], own[-2:])
        square = own[..., :16]
        edited = control.self_maps(square)
        assert torch.equal(edited[:-2], square[:-2]) and torch.equal(edited[-2:], square[-4:-2])


def test_maps_are_replaced_in_the_first_steps_and_own_ones_used_in_the_others(pipe):
    control = paper.Control([paper.plan(paper.Edit("a cat", "a dog", cross=0.5, self_=0.25), pipe.tokenizer, 4)], "cpu")
    own, seen = torch.randn(2, 2, 16, 32, generator=torch.Generator().manual_seed(0)).softmax(-1), []
    for k in range(4):
        seen.append([torch.equal(edit(own)[1], own[0]) for edit in (control.cross, control.self_maps)])
        control.after_step(k, 0, None)
    assert seen == [[True, True], [True, False], [False, False], [False, False]]


def test_local_editing_keeps_the_source_where_the_words_are_not(pipe):
    plan = paper.plan(paper.Edit("a red cat", "a blue cat", blend=["cat"]), pipe.tokenizer, 4)
    everywhere = paper.plan(paper.Edit("a red cat", "a blue cat"), pipe.tokenizer, 4)
    control = paper.Control([plan, everywhere], "cpu")
    maps = torch.zeros(4, 1, 64, 32)
    maps[0, 0, 0, 3] = maps[2, 0, 63, 3] = 1.0                        # "cat", in the source at the first pixel, in the edit at the last
    control.cross_seen(maps)
    control.cross_seen(0 * maps)                                      # a later layer or step that sees nothing
    z, z_star = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    mixed = control.after_step(0, 0, torch.cat([z, z_star]))
    assert torch.equal(mixed[:2], z) and torch.equal(mixed[3], z_star[1])
    expected = torch.zeros(8, 8)
    expected[:2, :2] = expected[-2:, -2:] = 1
    assert torch.equal(mixed[2, 0], expected)


def test_both_branches_start_from_the_noise_of_the_seed(pipe, monkeypatch):
    starts = []
    monkeypatch.setattr(paper, "sample", lambda predict, schedule, x, steps, **how: starts.append(x) or x)
    run(pipe, paper.Edit("a person", "an old person", seeds=[7, 2]))
    expected = noise((2, 8, 16, 16), [7, 2])
    assert torch.equal(starts[0], torch.cat([expected, expected]))


def test_large_self_attention_maps_are_not_touched_and_all_layers_are_free_afterwards(pipe, monkeypatch):
    layers = pipe.unet.attentions().values()
    control = paper.Control([paper.plan(paper.Edit("a", "a"), pipe.tokenizer, 2)], "cpu")
    with paper.controlled(pipe, control):
        assert all(layer.control is not None for layer in layers)
    monkeypatch.setattr(pipe, "sample_size", 64)                      # then its maps are 32 x 32
    with paper.controlled(pipe, control):
        assert [layer.control is not None for layer in layers] == [layer.is_cross for layer in layers]
    monkeypatch.setattr(pipe, "sample_size", 16)

    def stop(*args, **how):
        assert all(layer.control is not None for layer in layers)
        raise KeyboardInterrupt
    monkeypatch.setattr(paper, "sample", stop)
    with pytest.raises(KeyboardInterrupt):
        run(pipe, paper.Edit("a person", "an old person"))
    assert all(layer.control is None for layer in layers)


def test_the_side_of_the_maps_is_known_from_the_name(pipe):
    seen = {}
    for name, layer in pipe.unet.attentions().items():
        layer.control = lambda maps, name=name: seen.update({name: maps.shape[2]}) or maps
    with torch.no_grad():
        pipe.unet(torch.zeros(1, 8, 16, 16), 10, pipe.encode_prompts(["a cat"]).context)
    for layer in pipe.unet.attentions().values():
        layer.control = None
    assert seen and {name: paper.side(name, pipe) ** 2 for name in seen} == seen


# The script


FAST = ["--sampling", "2", "--n", "1"]


def test_the_demonstration_draws_and_measures(tmp_path, capsys):
    paper.main([*FAST, "--out", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"refine_change", "swap_uncontrolled_pixels", "reweight_kept_skin", "seconds", "device", "steps"} <= set(metrics)
    assert not any(isinstance(v, (dict, list)) for v in metrics.values())
    assert (tmp_path / "figure.png").stat().st_size > 5000 and "figure.png" in capsys.readouterr().out


def test_a_file_of_edits_becomes_pictures_in_the_order_of_items_and_seeds(tmp_path, pipe):
    items = [{"source": "a person", "target": "an old person", "mode": "refine", "seeds": [4, 2]},
             {"source": "a red cat", "target": "a red cat", "reweight": {"red": 2}, "cross": {"red": 0.5}, "self": 1, "blend": ["cat"]}]
    (tmp_path / "edits.json").write_text(json.dumps(items))
    paper.main(["edit", "--edits", str(tmp_path / "edits.json"), *FAST, "--seed", "6", "--out", str(tmp_path)])
    tensors = load_file(tmp_path / "edits.safetensors")
    assert tensors["source"].shape == tensors["edited"].shape == (3, 3, 64, 64) and tensors["source"].dtype == torch.float32
    assert 0 <= tensors["edited"].min() and tensors["edited"].max() <= 1
    for row, prompt, seed in ((0, "a person", 4), (1, "a person", 2), (2, "a red cat", 6)):
        assert_close(tensors["source"][row], pipe(prompt, steps=2, guidance=5.0, seed=seed, eta=0.0)[0], rtol=0, atol=1e-4)
    assert (tmp_path / "figure.png").is_file()


def test_what_an_edit_leaves_out_is_as_on_the_command_line():
    _, args = paper.arguments(["--cross", "0.7", "--self", "0.1", "--seed", "5", "--n", "2"])
    edit = paper.checked({"source": "a cat", "target": "a dog", "cross": {"dog": 0.2}}, "here", args)
    assert edit == paper.Edit("a cat", "a dog", cross={"default_": 0.7, "dog": 0.2}, self_=0.1, seeds=[5, 6])
    assert paper.checked({"source": "a cat", "target": "a dog", "cross": 0}, "here", args).cross == 0


@pytest.mark.parametrize("items, message", [
    ("{", "not valid JSON"), ("[]", "a list of edits"), ('{"source": "a"}', "a list of edits"), ("[3]", "a list of edits"),
    ('[{"source": "a cat"}]', "item 0: target is None"),
    ('[{"source": "a cat", "target": "a dog", "prompt": "x"}]', "unknown key prompt"),
    ('[{"source": "a cat", "target": "a red dog", "mode": "swap"}]', "has 2 words and 'a red dog' has 3"),
    ('[{"source": "a cat", "target": "a dog", "mode": "paint"}]', "auto or swap or refine"),
    ('[{"source": "a cat", "target": "a dog", "reweight": {"cat": 2}}]', "'cat' is not in 'a dog'"),
    ('[{"source": "a cat", "target": "a dog", "reweight": {"dog": "big"}}]', "a weight for each word"),
    ('[{"source": "a cat", "target": "a dog", "reweight": {"dog": NaN}}]', "a weight for each word"),
    ('[{"source": "a cat", "target": "a dog", "cross": 1.2}]', "from 0 to 1"),
    ('[{"source": "a cat", "target": "a dog", "cross": {"bird": 0.2}}]', "'bird' is not in 'a dog'"),
    ('[{"source": "a cat", "target": "a dog", "self": -0.1}]', "from 0 to 1"),
    ('[{"source": "a cat", "target": "a dog", "blend": ["bird"]}]', "'bird' is not in 'a cat -> a dog'"),
    ('[{"source": "a cat", "target": "a dog", "seeds": [1.5]}]', "whole numbers"),
    ('[{"source": "a cat", "target": "a dog", "seeds": []}]', "whole numbers"),
    (json.dumps([{"source": "a cat", "target": "cat " * 40}]), "40 tokens and this model reads 30"),
])
def test_a_bad_file_of_edits_is_one_sentence_and_status_2(tmp_path, capsys, items, message):
    (tmp_path / "e.json").write_text(items)
    with pytest.raises(SystemExit) as stop:
        paper.main(["edit", "--edits", str(tmp_path / "e.json"), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [
    ["edit"], ["edit", "--source", "a cat"], ["edit", "--edits", "/nowhere.json"], ["--cross", "1.5"], ["--cross", "nan"], ["--cross", "much"],
    ["--self", "-1"], ["--sampling", "0"], ["--n", "0"], ["--batch", "0"], ["--seed", "-1"], ["--guidance", "inf"], ["--model", "/nowhere"],
    ["edit", "--source", "a", "--target", "a", "--reweight", "2"], ["edit", "--source", "a", "--target", "a", "--reweight", "a=99"],
])
def test_bad_arguments_are_status_2(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        paper.main([*arguments, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [tiny_models.stable_diffusion, tiny_models.stable_diffusion_xl])
def test_the_same_file_edits_with_other_models(tmp_path, make):
    model, out = make(tmp_path / "model"), tmp_path / "out"
    paper.main(["edit", "--model", str(model), "--source", "a red cat", "--target", "a blue cat", "--blend", "cat", "--device", "cpu", *FAST,
                "--out", str(out)])
    assert (out / "figure.png").is_file() and load_file(out / "edits.safetensors")["edited"].shape == (1, 3, 16, 16)
