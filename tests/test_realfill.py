"""papers/realfill.py: how a model is widened, what it is shown and what counts, filling, files, and the script from end to end."""
import argparse
import copy
import json

import pytest
import realfill as paper
import tiny_models
import torch
from torch.testing import assert_close

import minidiff
from minidiff import images, tokens
from minidiff.samplers import noise
from minidiff.tensorfile import read_tensors

FAST = ["--steps", "1", "--batch", "1", "--sampling", "2", "--device", "cpu"]
LOADED, load = [], minidiff.load                                # toybox is loaded once, and then copied


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fresh(path="toybox", device="cpu"):
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


def options(*more, **changes):
    _, args = paper.arguments(["train", "--references", "r", *FAST, "--layers", "attention", *more])
    return argparse.Namespace(**vars(args) | changes)


def given(n=2):
    """Pictures, and a hole in all but the first."""
    holes = torch.zeros(n, 1, 64, 64)
    holes[1:, :, 18:40, 30:50] = 1
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(1)), holes


@torch.no_grad()
def test_a_widened_model_predicts_what_it_did_whatever_it_is_shown_and_its_new_weights_are_used(pipe):
    z_t, c = seeded(2, 8, 16, 16), pipe.encode_prompts(["a cat"]).context.repeat(2, 1, 1)
    before = pipe.unet(z_t, 300, c)
    unet = paper.widened(pipe.unet)
    wide = lambda seed: unet(torch.cat([z_t, seeded(2, 9, 16, 16, seed=seed)], dim=1), 300, c)
    assert_close(wide(1), before, rtol=1e-4, atol=1e-4)
    assert_close(wide(2), before, rtol=1e-4, atol=1e-4)
    unet.conv_in.weight[:, 8:] = .1
    assert not torch.allclose(wide(1), wide(2), atol=.01)


def test_the_model_is_shown_the_mask_and_what_is_outside_it():
    z, m = seeded(2, 4, 3, 3), (seeded(2, 1, 3, 3, seed=1) > 0).float()
    seen = paper.shown(z, m)
    assert seen.shape == (2, 5, 3, 3) and torch.equal(seen[:, :1], m)
    assert torch.equal(seen[:, 1:] * (1 - m), z * (1 - m)) and float((seen[:, 1:] * m).abs().sum()) == 0


def test_random_masks_are_rectangles_or_all_but_these():
    masks = paper.random_masks(1000, 16, torch.Generator().manual_seed(0))
    assert masks.shape == (1000, 1, 16, 16) and set(masks.unique().tolist()) == {0.0, 1.0}
    share = masks.mean((1, 2, 3))
    assert .4 < float(share.mean()) < .6 and float(share.min()) < .1 and float(share.max()) > .9
    one = [m for m in masks if 0 < float(m.sum()) <= 16]        # few cells: often a single rectangle, at most 4 x 4
    full = [m for m in one if float(m.sum()) == float(m.amax(1).sum() * m.amax(2).sum())]
    assert len(full) > 3 and all(m.amax(1).sum() <= 4 and m.amax(2).sum() <= 4 for m in full)


def test_the_loss_leaves_out_what_nobody_knows():
    e, eps, hidden = *seeded(2, 2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    hidden[1, 0, :3] = 1
    loss = paper.completion_loss(e, eps, hidden)
    assert_close(loss[0], (e - eps)[0].square().mean())
    assert_close(loss[1], (e - eps)[1, :, 3:].square().mean())
    assert torch.equal(paper.completion_loss(e + 9 * hidden, eps, hidden), loss)


def test_a_hole_is_grey_before_it_is_encoded_and_every_latent_it_touches_is_hidden(pipe):
    pictures, holes = given()
    other = torch.where(holes > 0, 1 - pictures, pictures)
    z, hidden = paper.encoded(pipe, pictures, holes)
    assert torch.equal(paper.encoded(pipe, other, holes)[0], z) and torch.allclose(z[0], pipe.encode(pictures[:1])[0], atol=1e-4)
    assert float(hidden[0].sum()) == 0 and bool((hidden[1, 0, 4:10, 7:13] == 1).all()) and float(hidden[1].sum()) == 36


def test_the_hole_of_a_target_is_always_hidden_and_never_counts(pipe, monkeypatch):
    seen = []
    monkeypatch.setattr(paper, "shown", lambda z, m, shown=paper.shown: seen.append(m) or shown(z, m))
    monkeypatch.setattr(paper, "completion_loss", lambda e, eps, hidden, loss=paper.completion_loss: seen.append(hidden) or loss(e, eps, hidden))
    monkeypatch.setattr(paper, "random_masks", lambda n, side, generator: torch.zeros(n, 1, side, side).index_fill(2, torch.tensor([0]), 1))
    paper.learn(pipe, *given(3), options(batch=6, steps=2))
    for m, hidden in (seen[:2], seen[2:]):
        assert torch.equal(m[:, :, 1:], hidden[:, :, 1:]) and bool((m[:, :, 0] == 1).all())
        assert {float(h.sum()) for h in hidden} == {0.0, 36.0}


def test_references_are_seen_as_often_as_targets_however_many_there_are(pipe, monkeypatch):
    seen = []
    monkeypatch.setattr(paper, "completion_loss", lambda e, eps, hidden: seen.extend(hidden.amax((1, 2, 3)).tolist()) or e.mean((1, 2, 3)))
    monkeypatch.setattr(pipe.unet, "forward", lambda x, t, c: x[:, :8] * pipe.unet.conv_in.weight.mean())
    paper.learn(pipe, *given(6), options(steps=10, batch=30))
    assert .4 < sum(seen) / 300 < .6
    del seen[:]
    pictures, holes = given(2)
    paper.learn(fresh(), pictures, 0 * holes, options(steps=1, batch=2))            # without targets
    assert seen == [0, 0]


def test_lora_conv_in_and_the_word_learn_and_nothing_else(pipe):
    before, table = copy.deepcopy(pipe.unet.state_dict()), tokens.table_of(pipe.text_encoder).clone()
    start = paper.rare_row(pipe)
    adapter, row = paper.learn(pipe, *given(), options(steps=2))
    after = {name: w for name, w in pipe.unet.state_dict().items() if name in before}
    assert [name for name, w in after.items() if w.shape != before[name].shape or not torch.equal(w, before[name])] == ["conv_in.weight"]
    assert bool((pipe.unet.conv_in.weight[:, 8:] != 0).any()) and all(bool((a.up.weight != 0).any()) for a in adapter.adapters)
    assert all(".attn" in name for name in adapter.names) and not torch.equal(row[0], start)
    assert torch.equal(tokens.table_of(pipe.text_encoder)[:len(table)], table)
    assert_close(start.norm(), table[pipe.tokenizer.encode("a")[0]].norm(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("is_wide", [False, True])
def test_the_known_part_comes_back_exactly_and_what_a_hole_held_does_not_matter(pipe, monkeypatch, is_wide):
    pictures, holes = given(3)
    if is_wide:
        paper.widened(pipe.unet).conv_in.weight.data[:, 8:] = .01
    decode = pipe.decode
    monkeypatch.setattr(pipe, "decode", lambda z: z)
    z, m = paper.encoded(pipe, pictures, holes)
    made = paper.fill(pipe, pictures, holes, "a cat", options(guidance=2.0), [3, 4, 5])
    assert torch.equal(made * (1 - m), z * (1 - m)) and torch.equal(made[0], z[0]) and not torch.allclose(made * m, z * m, atol=.5)
    other = torch.where(holes > 0, 1 - pictures, pictures)
    assert torch.equal(paper.fill(pipe, other, holes, "a cat", options(guidance=2.0), [3, 4, 5]), made)
    assert_close(paper.fill(pipe, pictures[2:], holes[2:], "a cat", options(guidance=2.0), 5), made[2:], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(paper.fill(pipe, pictures[2:], holes[2:], "a cat", options(guidance=2.0), 6), made[2:], atol=.1)
    monkeypatch.setattr(pipe, "decode", decode)
    assert paper.fill(pipe, pictures, holes, "a cat", options(), 0).shape == pictures.shape


def test_what_is_known_is_put_back_with_the_noise_that_the_next_step_expects(pipe, monkeypatch):
    seen, (pictures, holes) = [], given(2)
    pictures[:] = torch.rand(1, 3, 1, 1, generator=torch.Generator().manual_seed(4))
    z, m = paper.encoded(pipe, pictures, holes)
    monkeypatch.setattr(pipe, "predictor", lambda *given: lambda x, t: seen.append((x[:, :8], t)) or torch.zeros_like(x[:, :8]))
    paper.fill(pipe, pictures, holes, "a cat", options(sampling=5), 0)
    for x, t in seen[1:]:
        a = pipe.schedule.alpha_bar[t]
        eps = ((x - a.sqrt() * z) / (1 - a).sqrt())[0]          # all of the first picture is known
        assert abs(float(eps.mean())) < .1 and abs(float(eps.std()) - 1) < .1
    assert_close(seen[0][0], noise(z.shape, 0))


def test_what_is_saved_fills_as_what_was_learned(pipe, tmp_path):
    pictures, holes = given()
    adapter, row = paper.learn(pipe, pictures, holes, options(steps=2, lr=.05))
    paper.save(tmp_path, pipe, adapter, row, {"steps": 2})
    made = paper.fill(pipe, pictures, holes, paper.PROMPT, options(), 0)
    other = fresh()
    paper.put(other, tmp_path)
    assert_close(paper.fill(other, pictures, holes, paper.PROMPT, options(), 0), made, rtol=1e-3, atol=1e-3)
    plain = paper.fill(fresh(), pictures, holes, "a photo of a cat", options(), 0)
    assert not torch.allclose(plain[1], made[1], atol=.02)
    assert json.loads((tmp_path / "metrics.json").read_text())["bytes"] > 10_000


def test_toybox_hides_the_upper_half_of_the_individual():
    references, pictures, holes = paper.of_toybox("chair", 0, 64)
    assert references.shape == (5, 3, 64, 64) and pictures.shape == (4, 3, 64, 64) and holes.shape == (4, 1, 64, 64)
    drawn = paper.toybox.held_out("chair", 4, 50).instances > 0
    for thing, hole in zip(drawn, holes[:, 0] > 0):
        top = int(thing.any(1).nonzero()[0])
        assert .25 < float((thing & hole).sum() / thing.sum()) < .85 and bool((hole[top] | ~thing[top]).all()) and not bool((thing & hole).any(1)[thing.any(1).nonzero()[-1]])


def run(capsys, *arguments):
    paper.main([str(a) for a in arguments])
    return capsys.readouterr().out


def save_given(folder):
    pictures, holes = given(3)
    images.save(folder / "references" / "0.png", pictures[0])
    for i in (1, 2):
        images.save(folder / f"t{i}.png", pictures[i])
        images.save(folder / f"m{i}.png", holes[i].repeat(3, 1, 1))
    return ["--references", folder / "references"], ["--target", folder / "t1.png", folder / "t2.png", "--target-mask", folder / "m1.png", folder / "m2.png"]


def test_the_script_learns_and_fills_at_once_or_one_after_the_other(tmp_path, capsys):
    references, targets = save_given(tmp_path)
    run(capsys, "fill", *FAST, *references, *targets, "--n", 2, "--out", tmp_path / "a")
    made = read_tensors(tmp_path / "a" / "samples.safetensors")["images"]
    assert made.shape == (4, 3, 64, 64) and (tmp_path / "a" / "fill_3.png").is_file()
    run(capsys, "train", *FAST, *references, *targets, "--out", tmp_path / "b")
    run(capsys, "fill", *FAST, "--learned", tmp_path / "b", *targets, "--out", tmp_path / "c")
    again = read_tensors(tmp_path / "c" / "samples.safetensors")["images"]
    assert again.shape == (2, 3, 64, 64) and float((again.float() - made[:2].float()).abs().mean()) < 1


def test_the_demonstration_writes_its_figure_and_numbers(tmp_path, capsys):
    out = run(capsys, *FAST, "--out", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert "figure.png" in out and (tmp_path / "figure.png").stat().st_size > 5000
    names = {f"{what}_{who}" for what in ("psnr_hole", "distance", "psnr_outside") for who in ("plain", "realfill")}
    assert names | {"seconds", "steps", "device"} <= set(metrics) and not any(isinstance(v, (dict, list)) for v in metrics.values())


def test_a_stable_diffusion_without_targets(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paper, "RARE", ("r",))
    monkeypatch.setattr(paper, "PROMPT", "a <new1>")            # the tiny model reads few words
    references, _ = save_given(tmp_path)
    run(capsys, "train", *FAST, *references, "--model", tiny_models.stable_diffusion(tmp_path / "model"), "--out", tmp_path / "out")
    assert {"lora.safetensors", "conv_in.safetensors", "new1.safetensors", "metrics.json"} == {p.name for p in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("arguments, message", [
    (["train", "--steps", "0"], "--steps is 0"), (["train", "--lr", "0"], "above 0"), (["train"], "give --references"), (["fill"], "what to complete"),
    (["fill", "--target", "t1.png"], "1 --target and 0"), (["fill", "--target", "t1.png", "--target-mask", "m1.png"], "or --learned"),
    (["train", "--references", "/nowhere"], "no folder"), (["fill", "--learned", "/nowhere", "--target", "t1.png", "--target-mask", "m1.png"], "no file"),
    (["fill", "--references", "references", "--target", "t1.png", "--target-mask", "small.png"], "size of its picture"),
    (["fill", "--references", "references", "--target", "t1.png", "--target-mask", "black.png"], "dark all over"),
    (["train", "--references", "references", "--model", "/nowhere"], "no model"), (["--references", "references"], "the demonstration")])
def test_bad_arguments_are_one_sentence_and_status_2(tmp_path, capsys, monkeypatch, arguments, message):
    save_given(tmp_path)
    images.save(tmp_path / "small.png", torch.zeros(3, 32, 32))
    images.save(tmp_path / "black.png", torch.zeros(3, 64, 64))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        paper.main([*arguments, "--device", "cpu", "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and "Traceback" not in error and not (tmp_path / "out").exists()
