"""papers/custom_diffusion.py: what moves and what does not, the merge, where words look, the script from end to end."""
import copy
import json

import custom_diffusion as paper
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from tables import customization_analysis
from torch.testing import assert_close

import minidiff
from minidiff import deltas, images, tokens, toybox
from minidiff.deltas import Delta
from minidiff.samplers import noise, steps_of
from minidiff.toybox.world import CLASSES

FAST = ["--steps", "1", "--batch", "2", "--class-pictures", "3", "--sampling", "1", "--device", "cpu"]
LOADED, load = [], minidiff.load                                # toybox is loaded once, and then copied


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def fresh(path="toybox", device="cpu"):
    """A model as it is loaded."""
    if path != "toybox":
        return load(path, device)
    LOADED[:] = LOADED or [load("toybox", "cpu")]
    return copy.deepcopy(LOADED[0])


@pytest.fixture(autouse=True)
def loads_quickly(monkeypatch):
    monkeypatch.setattr(minidiff, "load", fresh)


@pytest.fixture
def pipe():
    return fresh()


def options(*more):
    _, args = paper.arguments(["train", *FAST, "--regularization", "toybox", *more])
    return args


def is_kv(name):
    return name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))


def kv_names(unet):
    return [name for name in unet.state_dict() if is_kv(name)]


# Sec. 3.2: pictures and loss


def test_with_a_mask_of_ones_the_loss_is_the_mean_squared_error_of_each_picture():
    e, eps = draw(2, 3, 4, 8, 8)
    assert_close(paper.masked_loss(e, eps, torch.ones(3, 1, 8, 8)), (e - eps).square().mean((1, 2, 3)))


def test_outside_the_mask_nothing_counts_and_inside_it_is_a_mean():
    e, eps, mask = *draw(2, 3, 4, 8, 8), torch.zeros(3, 1, 8, 8)
    mask[..., 2:5, 1:7] = 1
    assert_close(paper.masked_loss(e, eps, mask), (e - eps)[..., 2:5, 1:7].square().mean((1, 2, 3)))
    assert torch.equal(paper.masked_loss(e + 9 * (1 - mask), eps, mask), paper.masked_loss(e, eps, mask))
    assert torch.equal(paper.masked_loss(e, eps, torch.zeros_like(mask)), torch.zeros(3))


@pytest.mark.parametrize("sizes", [paper.SIZES, paper.TOYBOX_SIZES])
def test_sizes_are_drawn_as_the_authors_do_and_the_mask_keeps_one_latent_off_the_canvas(sizes):
    g, said, S, f = generator(), [], 64, 4
    for _ in range(300):
        picture, mask, size = paper.resized(torch.ones(3, S, S), f, sizes, g)
        said.append(size)
        assert picture.shape == (3, S, S) and mask.shape == (1, S // f, S // f)
        if size != "far":
            assert torch.equal(mask, torch.ones_like(mask)) and float(picture.min()) > .999
            continue
        inside = (picture[0] > .99).float()
        assert float(picture[0][inside == 0].sub(.5).abs().max()) < 1e-6           # mid-grey
        r = int(inside.sum().sqrt())
        assert r * r == inside.sum() and r % 2 == 0 and sizes[0] * S - 2 <= r < sizes[1] * S
        cells = F.avg_pool2d(inside[None], f)                                      # 1: all of the latent's pixels are picture
        assert_close(mask, eroded(cells))
    share = {size: said.count(size) / len(said) for size in ("far", "", "near")}
    assert .26 < share["near"] < .41 and .19 < share["far"] < .34 and .32 < share[""] < .47         # 1/3, 4/15, 2/5


def eroded(cells):
    """1 where a latent and its eight neighbours are all picture."""
    return 1 - F.max_pool2d(1 - F.pad((cells == 1).float(), (1, 1, 1, 1)), 3, 1)


def test_a_picture_zoomed_in_is_a_part_of_the_picture_and_larger():
    ramp = torch.linspace(0, 1, 64).expand(3, 64, 64)
    near = next(p for p, _, size in (paper.resized(ramp, 4, paper.SIZES, generator(seed)) for seed in range(50)) if size == "near")
    slopes = near[0, 30].diff()[4:-4]
    assert 1.2 <= float((1 / 63) / slopes.mean()) < 1.4 and float(slopes.std()) < 1e-3


def test_a_prompt_says_the_size_in_words_that_the_model_knows(pipe):
    concept = paper.Concept("<new1>", "cat", toybox.held_out("cat", 2).images)
    tokens.add(pipe, "<new1>", "cat")
    z, mask, prompts = paper.drawn_targets(pipe, concept, 24, True, generator())
    assert z.shape == (24, 8, 16, 16) and mask.shape == (24, 1, 16, 16)
    assert set(prompts) == {"a photo of a <new1> cat", "a photo of a small <new1> cat", "a photo of a large <new1> cat"}
    assert all(("small" in prompt) == bool((m == 0).any()) for m, prompt in zip(mask, prompts))
    _, mask, prompts = paper.drawn_targets(pipe, concept, 4, False, generator())
    assert set(prompts) == {"a photo of a <new1> cat"} and bool((mask == 1).all())


def test_sizes_of_photos_and_of_a_style_in_the_words_of_clip(pipe, monkeypatch):
    monkeypatch.setattr(pipe.tokenizer, "encode", lambda word: [0])                                     # a tokenizer that knows every word
    said = lambda word: set(paper.drawn_targets(pipe, paper.Concept("<new1>", word, toybox.held_out("cat", 2).images), 24, True, generator())[2])
    sizes = ("a far away", "a very small", "a", "a zoomed in", "a close up")
    assert said("cat") == {f"{size} photo of a <new1> cat" for size in sizes}
    assert said("art") == {f"{size} painting in the style of <new1> art" for size in sizes}
    assert paper.prompt_of("pop art") == "a painting in the style of pop art" and paper.prompt_of("cart") == "a photo of a cart"
    delta = paper.Delta({}, {"<new1>": None, "<new2>": None}, {"<new1>": "art"})
    assert paper.in_the_snow(delta) == "a painting in the style of <new1> art next to a <new2> in the snow"


def test_class_pictures_are_of_the_class_and_have_their_own_captions(pipe, tmp_path):
    pictures, captions = paper.class_pictures(pipe, "moon", options("--regularization", "toybox", "--class-pictures", "5"))
    assert pictures.shape == (5, 3, 64, 64) and all(" moon" in c or " thing" in c for c in captions) and len(set(captions)) > 2
    people, _ = paper.class_pictures(pipe, "person", options("--regularization", "toybox", "--class-pictures", "5"))
    assert (toybox.measure(people)["kind"] == CLASSES["kind"].index("portrait")).all()
    images.save(tmp_path / "a.png", pictures[0])
    images.save(tmp_path / "b.png", pictures[1])
    (tmp_path / "b.txt").write_text("a moon of cheese\n")
    found, captions = paper.class_pictures(pipe, "moon", options("--regularization", str(tmp_path)))
    assert captions == ["a photo of a moon", "a moon of cheese"]
    assert_close(found, pictures[:2], atol=1 / 255, rtol=0)
    made, captions = paper.class_pictures(pipe, "moon", options("--regularization", "generated"))
    assert made.shape == (3, 3, 64, 64) and captions == ["a photo of a moon"] * 3
    assert_close(made[1:2], pipe("a photo of a moon", 1, 1, 6.0, 1001, eta=1.0), rtol=0, atol=1e-4)
    pipe.schedule.method = "euler"                              # as many public models say
    assert_close(paper.class_pictures(pipe, "moon", options("--regularization", "generated"))[0], made, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="draws no 'zebra'.* use --regularization"):
        paper.class_pictures(pipe, "zebra", options())


# Sec. 3.1: what learns


def test_several_concepts_have_class_pictures_of_their_own(pipe, tmp_path):
    concepts = [paper.Concept(f"<new{i}>", word, torch.rand(2, 3, 64, 64)) for i, word in enumerate(("cat", "chair"))]
    for word, grey in (("cat", .2), ("chair", .8)):
        images.save(tmp_path / word / "a.png", torch.full((3, 64, 64), grey))
    for word, grey in (("cat", .2), ("chair", .8)):
        found, captions = paper.class_pictures(pipe, word, options("--regularization", str(tmp_path)))
        assert captions == [f"a photo of a {word}"] and float(found.mean()) == pytest.approx(grey, abs=.01)
    (tmp_path / "chair").rename(tmp_path / "seats")
    assert paper.class_pictures(pipe, "cat", options("--regularization", str(tmp_path)))[1] == ["a photo of a cat"]      # alone it is enough
    with pytest.raises(ValueError, match="holds no folder chair"):
        paper.learn(pipe, concepts, options("--regularization", str(tmp_path)))


def test_rare_tokens_of_fewer_captions_are_rarer(pipe, monkeypatch):
    asked = []
    monkeypatch.setattr(paper.tokens, "rare", lambda tokenizer, captions, *bounds: asked.append(bounds) or list(range(9)))
    for n in (200_000, 40_000, 1000):
        monkeypatch.setattr(paper, "corpus", lambda *given: ["a cat"] * n)
        paper.start_rows(pipe, 1, options("--captions", "x"))
    assert asked == [(5, 10), (1, 2), (0, 0)]                   # Appendix E


def test_another_model_of_toybox_needs_no_captions_and_one_with_other_words_does(pipe):
    args = options("--model", "elsewhere")
    assert len(paper.corpus(pipe, args, 3)) == 3
    pipe.tokenizer.vocab = pipe.tokenizer.vocab | {"photograph</w>": 9999}
    with pytest.raises(ValueError, match="--captions FILE is needed"):
        paper.corpus(pipe, args, 3)


def test_keys_and_values_of_the_start_token_are_the_same_but_get_no_gradient(pipe):
    context = draw(2, 5, 128).requires_grad_()
    plain = pipe.unet.text_kv(context)
    cut = paper.start_detached(plain)
    for layer, (k, v) in cut.pairs.items():
        assert torch.equal(k, plain.pairs[layer][0]) and torch.equal(v, plain.pairs[layer][1])
    sum(k.sum() + (2 * v).sum() for k, v in cut.pairs.values()).backward()
    assert bool((context.grad[:, 0] == 0).all()) and bool((context.grad[:, 1:].abs().sum(-1) > 0).all())


def test_training_starts_no_gradient_at_the_start_token(pipe, monkeypatch):
    """With text that is nothing but a start token, no weight could learn anything."""
    weights = paper.trainable(pipe.unet)
    only_start = pipe.encode_prompts(["a"]).context[:, :1].repeat(2, 1, 1)
    loss = paper.denoising_loss(pipe, draw(2, 8, 16, 16), only_start, torch.ones(2, 1, 16, 16), generator())
    assert not loss.requires_grad or all(g is None or not g.any() for g in torch.autograd.grad(loss, list(weights.values()), allow_unused=True))


@pytest.mark.parametrize("what, moves", [("kv", is_kv), ("crossattn", lambda n: ".attn2." in n), ("all", lambda n: True)])
def test_only_what_is_trained_moves_and_of_the_table_only_the_new_rows(pipe, what, moves):
    before = {name: w.clone() for name, w in (pipe.unet.state_dict() | pipe.text_encoder.state_dict()).items()}
    concepts = [paper.Concept("<new1>", "cat", toybox.held_out("cat", 2).images)]
    delta = paper.learn(pipe, concepts, options("--train", what))
    now = pipe.unet.state_dict()
    assert set(delta.weights) == {name for name in now if moves(name)}
    assert all(torch.equal(now[name], before[name]) for name in now if not moves(name))
    assert all(not torch.equal(now[name], before[name]) for name in kv_names(pipe.unet))
    table = pipe.text_encoder.text_model.embeddings.token_embedding.weight
    old = before["text_model.embeddings.token_embedding.weight"]
    assert torch.equal(table[:-1], old) and len(table) == len(old) + 1
    start = paper.start_rows(fresh(), 1, options())[0]
    assert torch.equal(table[-1:], delta.rows["<new1>"]) and not torch.equal(table[-1], start)
    rest = pipe.text_encoder.state_dict()
    assert all(torch.equal(w, before[name]) for name, w in rest.items() if "token_embedding" not in name)


def test_together_every_word_learns_and_the_seed_decides_all(pipe):
    concepts = [paper.Concept(f"<{name}>", name, toybox.held_out(name, 2).images) for name in ("cat", "chair")]
    args = options("--seed", "3")
    first = paper.learn(pipe, concepts, args)
    starts = paper.start_rows(fresh(), 2, args)
    assert args.done == 2 and first.classes == {"<cat>": "cat", "<chair>": "chair"}
    assert all((rows - start).abs().max() > paper.TOKEN_RATE / 2 for rows, start in zip(first.rows.values(), starts))
    again = paper.learn(fresh(), concepts, options("--seed", "3"))
    assert all(torch.equal(a, b) for a, b in zip(first.tensors, again.tensors))


def test_a_fixed_word_stays_where_it_starts(pipe):
    concept = paper.Concept("<new1>", "cat", toybox.held_out("cat", 2).images)
    delta = paper.learn(pipe, [concept], options("--token-init", "fixed", "--regularization", "none"))
    assert torch.equal(delta.rows["<new1>"][0], paper.start_rows(fresh(), 1, options())[0].float())


def test_words_of_later_trainings_start_at_other_rows(pipe):
    a, b, c = paper.start_rows(pipe, 3, options())
    pipe.tokenizer.add_token("<new1>")
    assert torch.equal(paper.start_rows(pipe, 1, options())[0], b) and not torch.equal(a, b) and not torch.equal(b, c)


def test_ctrl_c_keeps_what_was_learned_and_a_loss_that_is_not_finite_stops(pipe, monkeypatch, capsys):
    concept, calls = paper.Concept("<new1>", "cat", toybox.held_out("cat", 2).images), []

    def stop_at_the_second(*given, original=paper.update, **how):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*given, **how)
    monkeypatch.setattr(paper, "update", stop_at_the_second)
    before = {name: pipe.unet.state_dict()[name].clone() for name in kv_names(pipe.unet)}
    args = options("--steps", "5")
    delta = paper.learn(pipe, [concept], args)
    assert "stopped after 1 of 5" in capsys.readouterr().out and args.done == 1
    assert all(not torch.equal(w, before[name]) for name, w in delta.weights.items())
    monkeypatch.undo()
    monkeypatch.setattr(paper, "masked_loss", lambda e, eps, mask: e.sum((1, 2, 3)) * float("nan"))
    with pytest.raises(FloatingPointError, match="at step 0; lower --lr or --token-lr"):
        paper.learn(fresh(), [concept], options())


# Sec. 3.2: the merge


def problem(d=6, o=5, s=(2, 3), n=40):
    W_0, *W = draw(1 + len(s), o, d, dtype=torch.float64)
    targets = [(W_n, draw(rows, d, seed=7 + i, dtype=torch.float64)) for i, (W_n, rows) in enumerate(zip(W, s))]
    return W_0, targets, draw(n, d, seed=9, dtype=torch.float64)


def merged(W_0, targets, C_reg):
    return paper.merged(W_0, targets, paper.projector(torch.cat([C for _, C in targets]), C_reg))


def test_the_merged_weights_do_to_the_words_of_each_concept_what_its_own_weights_do():
    W_0, targets, C_reg = problem()
    W = merged(W_0, targets, C_reg)
    for W_n, C_n in targets:
        assert_close(W @ C_n.T, W_n @ C_n.T, rtol=1e-10, atol=1e-10)


def test_no_other_weights_that_do_so_are_nearer_on_the_captions():
    W_0, targets, C_reg = problem()
    W, C = merged(W_0, targets, C_reg), torch.cat([C for _, C in targets])
    free = torch.eye(6, dtype=torch.float64) - torch.linalg.pinv(C) @ C                 # directions that the constraint leaves open
    cost = lambda W: float(((W - W_0) @ C_reg.T).square().sum())
    assert all(cost(W + .01 * draw(5, 6, seed=i, dtype=torch.float64) @ free) > cost(W) for i in range(20))


def test_merging_what_did_not_change_is_the_pretrained_weight_and_the_order_does_not_matter():
    W_0, targets, C_reg = problem()
    assert_close(merged(W_0, [(W_0, C) for _, C in targets], C_reg), W_0)
    assert_close(merged(W_0, targets[::-1], C_reg), merged(W_0, targets, C_reg), rtol=1e-9, atol=1e-9)


def test_too_few_or_too_uniform_captions_and_equal_words_are_refused():
    W_0, targets, C_reg = problem()
    with pytest.raises(ValueError, match="5 rows of text, at least 6"):
        merged(W_0, targets, C_reg[:5])
    with pytest.raises(ValueError, match="more varied captions"):
        merged(W_0, targets, C_reg[:3].repeat(5, 1))
    with pytest.raises(ValueError, match="too alike"):
        merged(W_0, [targets[0], (targets[1][0], targets[0][1])], C_reg)


def test_a_concept_is_held_to_its_word_and_what_follows_but_not_to_what_comes_before(pipe):
    delta = tiny_models.changed(pipe)
    Delta({}, delta.rows).apply(pipe)
    short, long = pipe.encode_prompts(["<new1> cat", "a photo of a <new1> cat"]).context
    assert_close(paper.target_rows(pipe, delta), torch.cat([short[1:4], long[5:8]]), rtol=1e-4, atol=1e-4)     # word, cat, end


def test_captions_give_a_row_for_each_token_and_the_end_without_start_and_padding(pipe):
    one, two = pipe.encode_prompts(["a red cat", "a dog"]).context
    assert_close(paper.caption_rows(pipe, ["a red cat", "a dog"]), torch.cat([one[1:5], two[1:4]]), rtol=1e-4, atol=1e-4)


def test_merged_models_know_both_words_and_keep_to_1e_10(pipe):
    base = {name: w.clone() for name, w in pipe.unet.state_dict().items()}
    a, b = tiny_models.changed(pipe, "<new1>", "cat"), tiny_models.changed(pipe, "<new2>", "chair", seed=40)
    captions = paper.toybox_captions(60)
    delta, numbers = paper.merge(pipe, [a, b], captions)
    assert numbers["constraint_error"] < 1e-10 and numbers["rows_of_words"] == 12
    rows = paper.caption_rows(pipe, captions).double().T
    moved = [((w.double() - base[n].double()) @ rows).norm() / (base[n].double() @ rows).norm() for n, w in delta.weights.items()]
    assert numbers["drift_on_captions"] == pytest.approx(float(max(moved)), rel=1e-4) and max(moved) > 0
    assert list(delta.rows) == ["<new1>", "<new2>"] and delta.classes == {"<new1>": "cat", "<new2>": "chair"}
    rows = pipe.encode_prompts(["<new2> chair"]).context[0, 1:4]
    name = kv_names(pipe.unet)[3]
    assert_close(rows @ pipe.unet.state_dict()[name].T, rows @ b.weights[name].T, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(w, base[n]) for n, w in pipe.unet.state_dict().items() if not is_kv(n))


@pytest.mark.parametrize("spoil, message", [(lambda d: d, "the word <new1>"), (lambda d: Delta(d.weights | {"conv_in.bias": torch.zeros(80)}, {}), "conv_in"),
                                            (lambda d: Delta(dict(list(d.weights.items())[:2]), {}), "--train kv")])
def test_what_cannot_be_merged_is_one_sentence(pipe, spoil, message):
    with pytest.raises(ValueError, match=message):
        paper.merge(pipe, [tiny_models.changed(pipe), spoil(tiny_models.changed(pipe))], ["a cat"] * 200)


def test_a_merge_of_files_without_words_is_one_sentence(pipe):
    with pytest.raises(ValueError, match="none of these has learned a word"):
        paper.merge(pipe, [Delta(tiny_models.changed(pipe).weights, {})] * 2, ["a cat"] * 200)


# Where words look


def test_attention_maps_are_looked_at_and_change_nothing(pipe):
    plain = pipe(["a red cat"], 1, 2, 5.0, 3)
    picture, maps = paper.attention_maps(pipe, "a red cat", ["cat", "red"], 3, 2, 5.0)
    assert_close(picture, plain[0], rtol=0, atol=1e-4)
    assert maps.shape == (2, 3, 64, 64) and float(maps.min()) >= 0
    assert_close(maps.amax((1, 2, 3)), torch.ones(2))
    assert not torch.equal(maps[0], maps[1])
    assert all(layer.control is None for layer in pipe.unet.attentions().values())


@torch.no_grad()
def test_attention_maps_are_those_of_the_prompt_and_not_of_the_empty_one(pipe):
    _, maps = paper.attention_maps(pipe, "a red cat", ["cat"], 3, 1, 5.0)
    seen, layers = [], list(pipe.unet.cross_attentions().values())
    for layer in layers:
        layer.control = lambda m: seen.append(m[0, :, :, 3].mean(0)) or m                # start, a, red, cat
    pipe.unet(noise((1, 8, 16, 16), [3]), steps_of(pipe.schedule, 1)[0][0], pipe.encode_prompts(["a red cat"]).context)
    want = torch.stack(seen).mean(0).reshape(1, 1, 8, 8)
    for side in (16, 64):
        want = F.interpolate(want, (side, side), mode="bilinear")
    assert_close(maps[0, 0], want[0, 0] / want.max(), rtol=1e-3, atol=1e-3)


# The script


def run(capsys, *arguments):
    paper.main([str(a) for a in arguments])
    return capsys.readouterr().out


def test_the_script_learns_one_on_top_of_another_and_two_apart_merges_draws_and_exports(tmp_path, capsys, monkeypatch):
    a, b, c = (tmp_path / name for name in "abc")
    run(capsys, "train", *FAST, "--concept", "cat", "--out", a)
    run(capsys, "train", *FAST, "--concept", "moongate", "--token", "<gate>", "--out", b)
    run(capsys, "train", *FAST, "--concept", "chair", "--start-from", a, "--out", c)
    metrics = json.loads((a / "metrics.json").read_text())
    assert {"seconds", "steps", "bytes", "device", "numbers"} <= set(metrics) and metrics["steps"] == 1
    assert not any(isinstance(v, (dict, list)) for v in metrics.values())
    unet = fresh().unet
    first, gate, both = (deltas.read(folder / "delta.safetensors", unet) for folder in (a, b, c))
    assert gate.classes == {"<gate>": "moon"} and both.classes == {"<new1>": "cat", "<new2>": "chair"}
    assert set(first.weights) == set(kv_names(unet)) and metrics["numbers"] == sum(w.numel() for w in first.weights.values()) + 128
    assert torch.equal(both.rows["<new1>"], first.rows["<new1>"])
    (tmp_path / "p.json").write_text(json.dumps(["a <new1> cat", "a <gate> moon"]))
    (tmp_path / "captions.txt").write_text("\n".join(paper.toybox_captions(60)))
    use = ["--sampling", "1", "--device", "cpu", "--captions", tmp_path / "captions.txt"]
    run(capsys, "sample", *use, "--learned", a, b, "--prompts", tmp_path / "p.json", "--n", 2, "--seed", 4, "--out", tmp_path / "s")
    pictures = deltas.read_tensors(tmp_path / "s" / "samples.safetensors")["images"]
    assert pictures.shape == (4, 3, 64, 64) and pictures.dtype == torch.uint8 and (tmp_path / "s" / "samples.png").is_file()
    assert "constraint_error" in run(capsys, "merge", *use, "--learned", a, b, "--out", tmp_path / "m")
    run(capsys, "sample", *use, "--learned", tmp_path / "m", "--prompts", tmp_path / "p.json", "--n", 2, "--seed", 4, "--out", tmp_path / "t")
    again = deltas.read_tensors(tmp_path / "t" / "samples.safetensors")["images"]
    assert (pictures.float() - again.float()).abs().max() <= 1
    with monkeypatch.context() as m:
        m.setattr(paper.images, "save_samples", lambda folder, pictures, prompts: asked.extend(prompts))
        asked = []
        run(capsys, "sample", *use, "--learned", a, b, "--n", 1, "--out", tmp_path / "u")
    assert asked == ["a <new1> cat next to a <gate> moon in the snow"]            # without a prompt, what was learned
    for layout in ("lora", "lora-diffusers", "compvis"):
        run(capsys, "export", "--device", "cpu", "--learned", a, "--layout", layout, "--ratio", .6, "--out", tmp_path / "x")
    assert {p.name for p in (tmp_path / "x").iterdir()} == {"lora.safetensors", "delta.ckpt", "new1.safetensors"}
    assert tokens.load(fresh(), tmp_path / "x" / "new1.safetensors") == "<new1>"
    for folder in (a, b):
        run(capsys, "export", "--device", "cpu", "--learned", folder, "--layout", "compvis", "--out", folder)
    files = [a / "delta.ckpt", b / "delta.ckpt"]                                             # such files know neither words nor classes
    run(capsys, "merge", *use, "--learned", *files, "--named", "<new1> cat", "<gate> moon", "--out", tmp_path / "n")
    same, named = (deltas.read(tmp_path / folder, unet) for folder in "mn")
    assert named.classes == same.classes == {"<new1>": "cat", "<gate>": "moon"}
    for name, w in same.weights.items():
        assert_close(named.weights[name], w, rtol=1e-3, atol=1e-3)


def test_the_demonstration_and_the_analysis_write_their_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paper, "SCENES", paper.SCENES[:2])
    monkeypatch.setattr(customization_analysis, "SHARES", (.5, .05, 0))
    out = run(capsys, *FAST, "--sampling", 1, "--out", tmp_path)
    assert "figure.png" in out and (tmp_path / "figure.png").stat().st_size > 5000
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"image_alignment", "image_alignment_before", "class_kept", "seconds", "steps", "device", "bytes"} <= set(metrics)
    out = run(capsys, "analyze", *FAST, "--sampling", 1, "--n", 1, "--out", tmp_path)
    found = json.loads((tmp_path / "analysis.json").read_text())
    sizes = [row["bytes"] for row in found["compression"]]
    assert sizes[-1] == 512 and sizes == sorted(sizes, reverse=True) and found["rate_of_change"]["cross-attention"]["change"] > 0
    assert (tmp_path / "rate_of_change.png").is_file() and (tmp_path / "compression.png").is_file()


def test_learning_rates_are_toyboxs_the_papers_for_other_models_or_what_was_asked_for(pipe, tmp_path):
    other = minidiff.load(tiny_models.stable_diffusion(tmp_path), "cpu")
    assert paper.rates(pipe, options()) == (paper.RATES["kv"], paper.TOKEN_RATE) != paper.rates(other, options())
    assert paper.rates(pipe, options("--train", "all")) == (paper.RATES["all"], paper.TOKEN_RATE)
    assert paper.rates(other, options()) == (8e-5, 8e-5) and paper.rates(other, options("--lr", "1e-5")) == (1e-5, 8e-5)


def test_weights_without_a_word_need_a_prompt(pipe, tmp_path, capsys):
    name = kv_names(pipe.unet)[0]
    deltas.save(tmp_path, deltas.Delta({name: torch.zeros_like(pipe.unet.state_dict()[name])}), {})
    with pytest.raises(SystemExit):
        paper.main(["sample", "--learned", str(tmp_path), "--device", "cpu"])
    assert "say what to draw with --prompt" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:prompt has")
def test_your_own_pictures_on_a_stable_diffusion(tmp_path, capsys):
    model = tiny_models.stable_diffusion(tmp_path / "model")
    for folder in ("pets", "seats"):
        for i in range(2):
            images.save(tmp_path / folder / f"{i}.png", torch.rand(3, 24, 20, generator=generator(i)))
    use = ["--model", model, "--out", tmp_path / "out"]
    learning = [*FAST, *use, "--token-init", "random"]
    run(capsys, "train", *learning, "--images", tmp_path / "pets", "--class-word", "cat", "--images", tmp_path / "seats", "--class-word", "chair")
    delta = deltas.read(tmp_path / "out" / "delta.safetensors", minidiff.load(model, "cpu").unet)
    assert delta.classes == {"<new1>": "cat", "<new2>": "chair"} and len(delta.weights) == len(kv_names(minidiff.load(model, "cpu").unet))
    run(capsys, "sample", *use, "--device", "cpu", "--sampling", 2, "--learned", tmp_path / "out", "--prompt", "<new2>", "--n", 1)
    assert (tmp_path / "out" / "samples.png").is_file()


@pytest.mark.parametrize("arguments, message", [
    (["train", "--steps", "0"], "--steps is 0"), (["train", "--lr", "-1"], "above 0"), (["train", "--images", "x"], "1 --images and 0"),
    (["train", "--concept", "lion"], "invalid choice"), (["train", "--regularization", "/nowhere"], "expected toybox"),
    (["train", "--token", "<a>", "--token", "<b>"], "2 --token for 1"), (["train", "--token", "cat"], "is a token already"),
    (["train", "--images", "/nowhere", "--class-word", "cat"], "no folder"), (["train", "--start-from", "/nowhere"], "no file"),
    (["sample", "--learned", "/nowhere"], "no file"), (["sample", "--learned", "x", "--prompts", "/nowhere.json"], "cannot read the prompts"),
    (["merge", "--learned", "x"], "two or more"), (["merge", "--learned", "x", "y", "--named", "<a>"], "1 --named for 2"), (["export", "--learned", "x", "--ratio", "2"], "--ratio is 2"),
    (["train", "--model", "/nowhere"], "no model"), (["train", "--captions", "/nowhere.txt", *FAST], "cannot read the captions")])
def test_bad_arguments_are_one_sentence_and_status_2(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        paper.main([*arguments, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and "Traceback" not in error and not (tmp_path / "out").exists()
