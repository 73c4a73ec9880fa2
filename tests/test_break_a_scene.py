"""papers/break_a_scene.py: which concepts a step takes, both losses, what learns in each phase, and the script from end to end."""
import argparse
import copy
import json

import break_a_scene as paper
import pytest
import tiny_models
import torch
from torch.testing import assert_close

import minidiff
from minidiff import deltas, images, tokens
from minidiff.unet import UNet

FAST = ["--token-steps", "1", "--steps", "1", "--batch", "1", "--device", "cpu"]
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


def options(*more, **changes):
    _, args = paper.arguments(["train", *FAST, "--train", "crossattn", *more])
    return argparse.Namespace(**vars(args) | changes)


def given(n=2):
    """A picture that is not its own mirror image, and n masks that do not touch."""
    masks = torch.zeros(n, 1, 64, 64)
    for k in range(n):
        masks[k, :, 16:40, 4 + 20 * k:20 + 20 * k] = 1
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)), masks


def test_a_step_takes_some_of_the_concepts_each_at_most_once_in_any_order():
    generator = torch.Generator().manual_seed(0)
    taken = [tuple(paper.subset(3, generator)) for _ in range(400)]
    assert set(taken) == {(0,), (1,), (2,), (0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1), *((a, b, 3 - a - b) for a in range(3) for b in range(3) if a != b)}
    share = [sum(len(s) == k for s in taken) / 400 for k in (1, 2, 3)]
    assert all(.25 < x < .42 for x in share)                    # every size is as likely


def test_only_errors_inside_the_union_of_the_masks_count_and_they_are_averaged_over_the_picture():
    e, eps, M = *seeded(2, 2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    M[0, 0, :2], M[1, 0, 1, 1] = 1, 1
    for b, loss in enumerate(paper.masked_loss(e, eps, M)):
        want = sum((e - eps)[b, c, y, x] ** 2 for c in range(3) for y in range(4) for x in range(4) if M[b, 0, y, x]) / 48
        assert_close(loss, want)
    assert torch.equal(paper.masked_loss(e + 9 * (1 - M), eps, M), paper.masked_loss(e, eps, M))


def test_the_loss_on_attention_stretches_each_map_to_1_and_is_a_mean_over_concepts():
    CA, M = seeded(2, 4, 4).abs(), (seeded(2, 4, 4, seed=1) > 0).float()
    want = sum((CA[k, y, x] / CA[k].max() - M[k, y, x]) ** 2 for k in range(2) for y in range(4) for x in range(4)) / 32
    assert_close(paper.attention_loss(CA, M), want)
    assert_close(paper.attention_loss(M * torch.tensor([.01, 7.0]).reshape(2, 1, 1), M), torch.tensor(0.0))


def test_maps_are_those_of_the_way_down_and_up_of_one_resolution():
    maps = {"down_blocks.0.x": seeded(2, 1024, 5), "down_blocks.1.x": seeded(2, 256, 5, seed=1), "mid_block.x": seeded(2, 256, 5, seed=2),
            "up_blocks.1.x": seeded(2, 256, 5, seed=3), "up_blocks.0.x": seeded(2, 64, 5, seed=4)}
    CA = paper.attention_of(maps)
    assert CA.shape == (2, 5, 16, 16)
    for b, word, y, x in ((0, 0, 0, 1), (1, 4, 3, 0), (1, 2, 15, 7)):
        assert_close(CA[b, word, y, x], (maps["down_blocks.1.x"] + maps["up_blocks.1.x"])[b, 16 * y + x, word] / 2)
    assert paper.attention_of({"up_blocks.0.x": seeded(1, 64, 3)}).shape == (1, 3, 8, 8)
    assert paper.attention_of({"up_blocks.0.x": seeded(1, 1024, 3)}).shape == (1, 3, 32, 32)


def test_a_unet_with_attention_at_both_levels_is_looked_at_in_the_finer_one(monkeypatch):
    import latent_diffusion
    pipe = fresh()
    pipe.unet = UNet(**latent_diffusion.UNET_CONFIG | {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2})
    picture, masks = given()
    delta = paper.learn(pipe, picture, masks, ["<new1>", "<new2>"], ["cat", "chair"], options())
    assert any(name.startswith("down_blocks.0.attentions") for name in delta.weights)
    assert paper.where(pipe, picture, ["<new1>", "<new2>"], 0, n=1).shape == (2, 1, 16, 16)


def test_first_only_the_handles_learn_then_also_the_weights(monkeypatch):
    pipe, seen = fresh(), []
    before = copy.deepcopy(pipe.unet.state_dict())
    table = tokens.table_of(pipe.text_encoder).clone()

    def update(optimizer, loss, step, bar, update=paper.update, **more):
        update(optimizer, loss, step, bar, **more)
        changed = {name for name, w in pipe.unet.state_dict().items() if not torch.equal(w, before[name])}
        rows = pipe.text_encoder.text_model.embeddings.token_embedding.rows
        seen.append((changed, rows.detach().clone(), optimizer.param_groups[0]["lr"]))
    monkeypatch.setattr(paper, "update", update)
    monkeypatch.setattr(paper, "subset", lambda n, generator: [1, 0])
    delta = paper.learn(pipe, *given(), ["<new1>", "<new2>"], ["cat", "chair"], options(token_lr=.01, lr=.002))
    (none, first, lr_1), (changed, second, lr_2) = seen
    start = torch.stack([table[pipe.tokenizer.encode(word)[0]] for word in ("cat", "chair")])
    assert none == set() and (lr_1, lr_2) == (.01, .002) and bool((first != start).any(1).all()) and bool((second != first).any(1).all())
    assert changed == set(delta.weights) == {name for name in before if ".attn2." in name}
    assert torch.equal(tokens.table_of(pipe.text_encoder)[:len(table)], table)
    assert_close(torch.cat(list(delta.rows.values())), second) and list(delta.rows) == ["<new1>", "<new2>"]
    assert not any(p.requires_grad for p in pipe.unet.parameters())


def test_the_loss_is_that_of_the_noise_plus_lambda_times_that_of_attention(monkeypatch):
    losses = []
    monkeypatch.setattr(paper, "masked_loss", lambda e, eps, M: torch.tensor([1.0, 3.0]))
    monkeypatch.setattr(paper, "attention_loss", lambda CA, M: torch.tensor(5.0))
    monkeypatch.setattr(paper, "update", lambda optimizer, loss, *given, **more: losses.append(float(loss)))
    paper.learn(fresh(), *given(), ["<a>", "<b>"], ["cat", "chair"], options(batch=2, attention=.1))
    assert losses == pytest.approx([2.5, 2.5])


def test_a_picture_is_mirrored_on_request_only(monkeypatch):
    pipe, seen = fresh(), []
    monkeypatch.setattr(pipe, "encode", lambda x: torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 8, 16, 16).clone())      # 1: mirrored
    monkeypatch.setattr(paper, "denoised", lambda pipe, z, handles, generator, denoised=paper.denoised:
                        seen.extend(z[:, 0, 0, 0].tolist()) or denoised(pipe, z, handles, generator))
    paper.learn(pipe, *given(), ["<a>", "<b>"], ["cat", "chair"], options(batch=4))
    assert set(seen) == {0.0}


def test_the_prompt_the_masks_and_the_maps_are_those_of_the_concepts_taken_and_mirrored_together(monkeypatch):
    pipe, seen = fresh(), {"asked": [], "M_s": [], "attention": []}
    picture, masks = given(3)
    taken = iter([[2], [0, 2], [1, 0]] * 2)
    monkeypatch.setattr(paper, "subset", lambda n, generator: next(taken))
    monkeypatch.setattr(pipe, "encode", lambda x: torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 8, 16, 16).clone())      # 1: mirrored
    monkeypatch.setattr(paper, "denoised", lambda pipe, z, handles, generator, denoised=paper.denoised:
                        seen["asked"].append((z[:, 0, 0, 0].tolist(), handles)) or denoised(pipe, z, handles, generator))
    monkeypatch.setattr(paper, "attention_of", lambda maps: torch.arange(32.0).reshape(1, 32, 1, 1).expand(3, 32, 8, 8))          # word number
    monkeypatch.setattr(paper, "masked_loss", lambda e, eps, M, loss=paper.masked_loss: seen["M_s"].append(M) or loss(e, eps, M))
    monkeypatch.setattr(paper, "attention_loss", lambda CA, M, loss=paper.attention_loss: seen["attention"].append((CA, M)) or loss(CA, M))
    paper.learn(pipe, picture, masks, ["<a>", "<b>", "<c>"], ["cat", "chair", "dog"], options("--mirror", batch=3))
    names = ["<a>", "<b>", "<c>"]
    for (flips, handles), M_s in zip(seen["asked"], seen["M_s"]):
        assert handles == [["<c>"], ["<a>", "<c>"], ["<b>", "<a>"]]
        for flip, words, M in zip(flips, handles, M_s):
            want = sum(masks[names.index(word)] for word in words)
            assert_close(M, paper.resized(want.flip(-1) if flip else want, 16))
    flips = sum((flips for flips, _ in seen["asked"]), [])
    assert set(flips) == {0.0, 1.0} and [len(M) for _, M in seen["attention"]] == [1, 2, 2] * 2
    for flip, words, (CA, M) in zip(flips, [w for _, handles in seen["asked"] for w in handles], seen["attention"]):
        own = torch.stack([masks[names.index(word), 0] for word in words])
        assert torch.equal(M, paper.resized(own.flip(-1) if flip else own, 8)) and CA[:, 0, 0].tolist() == [5, 9][:len(own)]


def test_the_maps_are_those_of_the_handles_and_a_prompt_may_be_too_long():
    pipe = fresh()
    tokens.add(pipe, ["<a>", "<b>"], ["cat", "chair"])
    prompt = paper.says(pipe, ["<b>", "<a>"])
    assert prompt == "a photo of a <b> next to a <a>" and paper.places_of(pipe, prompt, ["<b>", "<a>"]) == [5, 9]
    with pytest.raises(ValueError, match="too long"), pytest.warns(UserWarning):
        paper.places_of(pipe, "a photo of " + "a cat " * 30 + "<a>", ["<a>"])


def test_toybox_draws_individuals_side_by_side_and_says_where_they_are():
    picture, masks = paper.together(["cat", "chair"], 1, 64)
    columns = torch.arange(64.0)
    middle = [(m.sum((0, 1)) * columns).sum() / m.sum() for m in masks]
    assert picture.shape == (1, 3, 64, 64) and masks.shape == (2, 1, 64, 64) and middle[0] < 28 and middle[1] > 36
    assert bool((masks.sum((1, 2, 3)) > 150).all()) and float(masks.prod(0).sum()) == 0
    maps = torch.nn.functional.adaptive_avg_pool2d(masks, 16)
    own, other = paper.disentangled(maps, masks)
    assert own > .7 and other == 0 and paper.disentangled(maps.flip(0), masks)[0] == 0


def test_alignment_is_that_of_each_concept_with_its_own_renders_and_with_the_others():
    drawn = torch.stack([paper.toybox.held_out(name, 2, 7).images for name in ("cat", "chair")])
    own, other = paper.alignments(drawn, ["cat", "chair"])
    assert own > other + .2 and paper.alignments(drawn.flip(0), ["cat", "chair"]) == pytest.approx((other, own))


def run(capsys, *arguments):
    paper.main([str(a) for a in arguments])
    return capsys.readouterr().out


def save_given(folder):
    picture, masks = given()
    images.save(folder / "a.png", picture[0])
    for k, mask in enumerate(masks):
        images.save(folder / f"m{k}.png", mask.repeat(3, 1, 1))
    return ["--image", folder / "a.png", "--mask", folder / "m0.png", "--mask", folder / "m1.png"]


def test_the_script_learns_from_your_own_picture_and_draws_with_the_handles(tmp_path, capsys):
    out = tmp_path / "out"
    run(capsys, "train", *FAST, *save_given(tmp_path), "--class-word", "dog", "--class-word", "lamp", "--out", out, "--train", "crossattn")
    delta = deltas.read(out, fresh().unet)
    assert list(delta.rows) == ["<new1>", "<new2>"] and delta.classes == {"<new1>": "dog", "<new2>": "lamp"}
    assert json.loads((out / "metrics.json").read_text())["steps"] == 2
    run(capsys, "sample", "--learned", out, "--prompt", "a <new2> in a room", "--n", 1, "--sampling", 2, "--out", tmp_path / "s", "--device", "cpu")
    assert deltas.read_tensors(tmp_path / "s" / "samples.safetensors")["images"].shape == (1, 3, 64, 64)


def test_the_demonstration_writes_its_figure_and_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paper, "SCENES", paper.SCENES[:1] * 2)
    out = run(capsys, *FAST, "--sampling", 1, "--out", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert "figure.png" in out and (tmp_path / "figure.png").stat().st_size > 5000 and (tmp_path / "new2.safetensors").is_file()
    assert {"iou_own", "iou_other", "alignment_own", "alignment_other", "seconds", "steps", "device"} <= set(metrics)


def test_a_stable_diffusion_without_words_for_the_concepts(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paper, "RARE", ("r", "b", "c"))
    monkeypatch.setattr(paper, "says", lambda pipe, words: "a " + " ".join(words))                # the tiny model reads few words
    run(capsys, "train", *FAST, *save_given(tmp_path), "--model", tiny_models.stable_diffusion(tmp_path / "model"), "--out", tmp_path / "out")
    assert (tmp_path / "out" / "delta.safetensors").is_file()


@pytest.mark.parametrize("arguments, message", [
    (["train", "--steps", "0"], "--steps is 0"), (["train", "--lr", "0"], "above 0"), (["train", "--attention", "-1"], "at least 0"),
    (["train", "--image", "a.png"], "a --mask for each"), (["train", "--mask", "m0.png"], "a --mask for each"),
    (["train", *["--concept", "cat"] * 3], "at most two"), (["train", "--concept", "cow"], "invalid choice"),
    (["train", "--image", "/nowhere.png", "--mask", "m0.png"], "no picture"), (["train", "--image", "a.png", "--mask", "small.png"], "size of its picture"),
    (["train", "--image", "a.png", "--mask", "black.png"], "dark all over"), (["train", "--model", "/nowhere"], "no model"),
    (["train", "--image", "a.png", "--mask", "m0.png", "--class-word", "cat", "--class-word", "dog"], "1 masks and 2 --class-word"),
    (["train", "--image", "a.png", "--mask", "m0.png", "--class-word", "zebra"], "single token"),
    (["--image", "a.png", "--mask", "m0.png"], "the demonstration"), (["sample", "--learned", "/nowhere"], "no file")])
def test_bad_arguments_are_one_sentence_and_status_2(tmp_path, capsys, monkeypatch, arguments, message):
    save_given(tmp_path)
    images.save(tmp_path / "small.png", torch.zeros(3, 32, 32))
    images.save(tmp_path / "black.png", torch.zeros(3, 64, 64))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        paper.main([*arguments, "--device", "cpu", "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and "Traceback" not in error and not (tmp_path / "out").exists()
