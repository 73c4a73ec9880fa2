"""papers/clic.py: the three losses, what learns, blending and guidance step by step, regions, generation, the script from end to end."""
import argparse
import copy
import json
import math
from pathlib import Path

import clic as paper
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from tables import clic as tables
from torch.testing import assert_close

import minidiff
from minidiff import deltas, images, tokens
from minidiff.samplers import noise, steps_of

FAST = ["--steps", "1", "--batch", "1", "--region-steps", "1", "--sampling", "3", "--start", "1", "--plain", "1", "--device", "cpu"]
LOADED, load = [], minidiff.load                                # toybox is loaded once, and then copied


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fresh(path="toybox", device="cpu"):
    if path != "toybox":
        return load(path, device)
    LOADED[:] = LOADED or [load("toybox", "cpu")]
    return copy.deepcopy(LOADED[0])


@pytest.fixture(autouse=True)
def loads_quickly(monkeypatch):
    monkeypatch.setattr(minidiff, "load", fresh)
    monkeypatch.setattr(paper, "views", lambda *given, views=paper.views: views(*given, n=4))
    monkeypatch.setattr(paper, "where", lambda *given, where=paper.where, n=1: where(*given, n=n))


@pytest.fixture
def pipe():
    return fresh()


@pytest.fixture
def taught(pipe):
    """A model that has the word already, as after learning."""
    tokens.add(pipe, paper.TOKEN, "mug")
    tokens.freeze(pipe)
    pipe.unet.requires_grad_(False)
    return pipe


def options(*more, **changes):
    _, args = paper.arguments(["train", *FAST, *(() if "--train" in more else ("--train", "kv")), *more])
    return argparse.Namespace(**vars(args) | changes)


def source(n=1):
    masks = torch.zeros(n, 1, 64, 64)
    masks[..., 20:44, 8:28] = 1
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(1)), masks


# Eq. (1) to (5)


def test_the_map_of_a_word_is_that_of_the_layers_on_the_way_up_each_enlarged_to_the_latents():
    maps = {"down_blocks.0.x": draw(2, 8, 5), "up_blocks.0.x": draw(2, 8, 5, seed=1), "up_blocks.1.x": draw(2, 32, 5, seed=2)}
    seen = paper.attention_of(maps, torch.tensor([3, 1]), (8, 16))                              # 2 x 4 and 4 x 8
    for b, place in enumerate((3, 1)):
        for layer, (name, h) in enumerate((("up_blocks.0.x", 2), ("up_blocks.1.x", 4))):
            small = torch.tensor([[maps[name][b, y * 2 * h + x, place] for x in range(2 * h)] for y in range(h)])
            assert_close(seen[b, layer], F.interpolate(small[None, None], (8, 16), mode="bilinear")[0, 0])
    assert seen.shape == (2, 2, 8, 16) and torch.equal(paper.attention_of(maps, 1, (8, 16))[1], seen[1])


def test_the_attention_loss_stretches_the_mean_map_and_compares_it_with_the_mask():
    CA, M = draw(2, 3, 4, 4).mul(.01).requires_grad_(), (draw(2, 1, 4, 4, seed=1) > 0).float()
    want = []
    for b in range(2):
        m = [[sum(CA[b, l, y, x] for l in range(3)) / 3 for x in range(4)] for y in range(4)]
        low, high = min(min(row) for row in m), max(max(row) for row in m)
        want.append(sum(((m[y][x] - low) / (high - low) - M[b, 0, y, x]) ** 2 for y in range(4) for x in range(4)) / 16)
    assert_close(paper.attention_loss(CA, M), torch.stack(want), rtol=1e-3, atol=1e-4)
    mine, = torch.autograd.grad(paper.attention_loss(CA, M).sum(), CA)
    theirs, = torch.autograd.grad(sum(want), CA)
    assert_close(mine, theirs, rtol=1e-2, atol=1e-2)            # also through the lowest and the highest value
    assert float(paper.attention_loss(torch.ones(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))) == 0                # a flat map


def test_the_context_loss_weighs_the_inside_1_and_the_outside_a_quarter():
    e, eps, M = *draw(2, 2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    M[0, 0, :2], M[1, 0, 1, 1], M[1, 0, 2, 2] = 1, 1, .5
    for b, loss in enumerate(paper.context_loss(e, eps, M)):
        total = weight = 0.0
        for c in range(3):
            for y in range(4):
                for x in range(4):
                    w = (.5 + .5 * M[b, 0, y, x]) ** 2
                    total, weight = total + w * (e - eps)[b, c, y, x] ** 2, weight + w
        assert_close(loss, total / weight)
    assert_close(paper.context_loss(e, eps, torch.zeros_like(M)), (e - eps).square().mean((1, 2, 3)))
    inside, outside = torch.zeros(2, 1, 1, 2, 2)
    inside[..., 0, 0], outside[..., 1, 1] = 2, 2
    mask = inside / 2
    assert_close(paper.context_loss(inside, 0 * inside, mask), 4 * paper.context_loss(outside, 0 * outside, mask))


def test_the_region_of_interest_counts_only_inside_the_mask():
    e, eps, M = *draw(2, 2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    M[..., :2, 1:] = 1
    assert_close(paper.roi_loss(e, eps, M), (e - eps)[..., :2, 1:].square().mean((1, 2, 3)))
    assert torch.equal(paper.roi_loss(e + 9 * (1 - M), eps, M), paper.roi_loss(e, eps, M))


@pytest.mark.usefixtures("float32")
def test_one_pass_for_both_losses_is_two_passes_at_the_same_time_with_the_same_noise(taught):
    z, prompts = [draw(2, 8, 16, 16, seed=s) for s in (1, 2)], ["a mug with <new1>", "a photo of <new1>"]
    text = taught.encode_prompts(prompts).context
    with torch.no_grad():
        both, eps, maps = paper.denoised(taught, z, text.repeat_interleave(2, 0), torch.Generator().manual_seed(5))
        for i in range(2):
            (alone,), eps_i, maps_i = paper.denoised(taught, z[i:i + 1], text[[i, i]], torch.Generator().manual_seed(5))
            assert torch.equal(eps_i, eps)
            assert_close(both[i], alone, rtol=1e-3, atol=1e-3)
            assert_close({k: m[2 * i:2 * i + 2] for k, m in maps.items()}, maps_i, rtol=1e-3, atol=1e-4)


def test_copies_are_mirrored_with_their_masks_and_the_erased_ones_are_grey(pipe, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(pipe, "encode", lambda x: x)            # so that latents are the pictures
    (picture, mask), g = source(), torch.Generator().manual_seed(0)
    still = dict(shift=0.0, zoom=0.0)
    z, erased, M = paper.views(pipe, picture, mask, options(brightness=0.0, **still), g, n=16)
    flipped = [not torch.allclose(x, picture[0], atol=1e-4) for x in z]
    assert 3 < sum(flipped) < 13 and M.shape == (16, 1, 16, 16) and bool((M[:, :, 5:11].amax((1, 2, 3)) == 1).all())
    for x, x_roi, m, f in zip(z, erased, M, flipped):
        assert_close(x, picture[0].flip(-1) if f else picture[0], atol=1e-4, rtol=0)
        assert_close(m[0, 5:11, slice(9, 14) if f else slice(2, 7)], torch.ones(6, 5), atol=1e-4, rtol=0)
        big = mask[0].flip(-1) if f else mask[0]
        assert float(m.sum()) == pytest.approx(30, abs=1e-3)
        assert_close(x_roi, torch.where(big > 0, x, torch.tensor(.5)).float(), atol=1e-4, rtol=0)
    z, *_ = paper.views(pipe, .5 * torch.ones_like(picture), mask, options(brightness=.4, **still), g, n=64)
    light = z[:, 0, 0, 0] / .5
    assert .6 <= float(light.min()) < .75 and 1.25 < float(light.max()) <= 1.4
    z, *_ = paper.views(pipe, torch.cat([picture, picture, .5 * picture]), mask.repeat(3, 1, 1, 1), options(no_augmentation=True), g, n=2)
    assert len(z) == 3                                                                          # all of them, if they are more than n
    z, *_ = paper.views(pipe, picture, mask, options(no_augmentation=True), g, n=8)
    assert_close(z, picture.repeat(8, 1, 1, 1), atol=1e-4, rtol=0)


def test_copies_are_moved_and_zoomed_with_their_masks(pipe, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(pipe, "encode", lambda x: x)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 24:40, 24:40] = 1
    z, _, M = paper.views(pipe, mask.repeat(1, 3, 1, 1), mask, options(brightness=0.0, shift=.4, zoom=.5), torch.Generator().manual_seed(0), n=64)
    assert_close(F.avg_pool2d(z[:, :1], pipe.factor), M)
    rows, share = torch.arange(16.) + .5, M.sum((1, 2, 3))
    middle = torch.stack([(M.sum((1, i)) * rows).sum(1) / share for i in (2, 3)]) / 8 - 1          # in half widths
    side = share.sqrt() / 4
    assert .25 < float(middle.abs().max()) <= .4 * math.exp(.5) + .02 and float(middle.mean().abs()) < .1
    assert float(side.min()) == pytest.approx(math.exp(-.5), rel=.1) and float(side.max()) == pytest.approx(math.exp(.5), rel=.1)


@pytest.mark.parametrize("what, moves", [("kv", (".attn2.to_k.", ".attn2.to_v.")), ("crossattn", (".attn2.",)), ("all", ("",))])
def test_the_word_and_the_cross_attention_learn_and_nothing_else(pipe, what, moves):
    before = {name: w.clone() for name, w in (pipe.unet.state_dict() | pipe.text_encoder.state_dict()).items()}
    start = paper.start_row(pipe).clone()
    delta = paper.learn(pipe, *source(), "mug", options("--train", what))
    now = pipe.unet.state_dict()
    is_moved = {name: not torch.equal(w, before[name]) for name, w in now.items()}
    assert all(is_moved[name] == any(part in name for part in moves) for name in now) and {n for n in now if is_moved[n]} == set(delta.weights)
    rest = {name: w for name, w in pipe.text_encoder.state_dict().items() if "token_embedding" not in name}
    assert all(torch.equal(w, before[name]) for name, w in rest.items())
    table = pipe.text_encoder.text_model.embeddings.token_embedding.weight
    assert torch.equal(table[:-1], before["text_model.embeddings.token_embedding.weight"]) and not torch.equal(table[-1], start)
    assert not any(p.requires_grad for p in pipe.unet.parameters())


def test_each_loss_is_switched_by_its_weight_and_its_gradient_reaches_word_and_keys(pipe):
    """With l_att alone keys learn and values of the last layer do not: nothing after them is asked."""
    before = {name: w.clone() for name, w in pipe.unet.state_dict().items()}
    delta = paper.learn(pipe, *source(), "mug", options(con=0.0, roi=0.0))
    last = [name for name in delta.weights if name.startswith("up_blocks")][-2:]
    assert not torch.equal(delta.weights[last[0]], before[last[0]]) and torch.equal(delta.weights[last[1]], before[last[1]])
    assert last[0].endswith("to_k.weight") and last[1].endswith("to_v.weight")
    assert not torch.equal(delta.rows["<new1>"][0], paper.start_row(fresh()))
    nothing = paper.learn(fresh(), *source(), "mug", options(con=0.0, att=0.0, roi=0.0))
    assert all(torch.equal(w, before[name]) for name, w in nothing.weights.items())


def test_attention_is_that_of_the_source_prompt_not_of_the_region_of_interest(pipe, monkeypatch):
    texts, looked, given_latents = [], [], []
    denoised, attention_of = paper.denoised, paper.attention_of
    z = draw(4, 8, 16, 16)
    monkeypatch.setattr(paper, "views", lambda *given, **how: (z, z + 100, torch.ones(4, 1, 16, 16)))

    def watched(pipe, latents, text, g):
        given_latents.append(latents)
        texts.append((text, denoised(pipe, latents, text, g)))
        return texts[-1][1]
    monkeypatch.setattr(paper, "denoised", watched)
    monkeypatch.setattr(paper, "attention_of", lambda maps, *given: looked.append((maps, given)) or attention_of(maps, *given))
    paper.learn(pipe, *source(), "red mug", options(batch=2))
    (text, (_, _, all_maps)), (maps, given) = texts[0], looked[0]
    assert len(text) == 4 and all(torch.equal(m, all_maps[name][:2]) for name, m in maps.items()) and given == (5, (16, 16))
    assert_close(given_latents[0][1], given_latents[0][0] + 100)                               # of the erased pictures, in the second half
    tokens.add(again := fresh(), paper.TOKEN, paper.start_row(again))
    want = again.encode_prompts(["a red mug with <new1>", "a photo of <new1>"]).context
    assert_close(text, want[[0, 0, 1, 1]], rtol=1e-4, atol=1e-4)


def test_ctrl_c_keeps_what_was_learned_and_a_loss_that_is_not_finite_stops(pipe, monkeypatch, capsys):
    calls = []

    def stop_at_the_second(*given, original=paper.update, **how):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*given, **how)
    monkeypatch.setattr(paper, "update", stop_at_the_second)
    args = options("--steps", "5")
    delta = paper.learn(pipe, *source(), "mug", args)
    assert "stopped after 1 of 5" in capsys.readouterr().out and args.done == 1 and "<new1>" in delta.rows
    monkeypatch.setattr(paper, "update", minidiff.training.update)
    monkeypatch.setattr(paper, "roi_loss", lambda e, eps, M: e.sum((1, 2, 3)) * float("nan"))
    with pytest.raises(FloatingPointError, match="at step 0; lower --lr or --token-lr"):
        paper.learn(fresh(), *source(), "mug", options())


@pytest.mark.filterwarnings("ignore:prompt has")
def test_a_word_that_is_cut_off_is_one_sentence(taught):
    assert paper.place_of(taught, "a red mug with <new1>") == 5
    with pytest.raises(ValueError, match="too long: <new1> is cut off"):
        paper.place_of(taught, "a " + 40 * "red " + "mug with <new1>")


# Sec. 3.2: transfer


def test_blending_keeps_the_outside_and_guidance_moves_the_inside_by_eta():
    x, known, M = *draw(2, 2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    M[..., :2, :] = 1
    mixed = paper.blend(x, known, M)
    assert torch.equal(mixed[..., 2:, :], known[..., 2:, :]) and torch.equal(mixed[..., :2, :], x[..., :2, :])
    g = draw(2, 3, 4, 4, seed=3) * torch.tensor([1e-6, 1e3]).reshape(2, 1, 1, 1)
    moved = x - paper.guide_attention(x, g, torch.ones_like(M), .1)
    assert_close(moved.square().mean((1, 2, 3)).sqrt(), torch.full((2,), .1), rtol=2e-2, atol=1e-4)         # of each picture
    assert bool((moved.sign() == g.sign()).all())
    assert torch.equal(paper.guide_attention(x, g, M, .1)[..., 2:, :], x[..., 2:, :]) and torch.equal(paper.guide_attention(x, g, M, 0.0), x)
    assert_close(paper.guide_attention(x, 7 * g, M, .1)[1], paper.guide_attention(x, g, M, .1)[1])


def test_the_guidance_loss_is_the_mean_over_layers_of_the_distance_to_the_mask():
    CA, M = draw(2, 3, 4, 4), (draw(2, 1, 4, 4, seed=1) > 0).float()
    want = torch.stack([torch.stack([(CA[b, l] - M[b, 0]).square().mean() for l in range(3)]).mean() for b in range(2)])
    assert_close(paper.guidance_loss(CA, M), want)
    assert_close(paper.guidance_loss(CA, M, "ones"), (CA - 1).square().mean((1, 2, 3)))


def test_the_gradient_is_that_of_the_loss_at_the_latents_and_following_it_lowers_the_loss(taught):
    x, M = draw(2, 8, 16, 16), torch.zeros(2, 1, 16, 16)
    M[..., 4:12, 4:12] = 1
    kv, places = taught.unet.text_kv(taught.encode_prompts(["a mug with <new1>", "a red mug with <new1>"]).context.detach()), torch.tensor([4, 5])

    def loss(x):
        with torch.no_grad(), paper.recorded(taught.unet) as maps:
            taught.unet(x, 500, kv)
        return paper.guidance_loss(paper.attention_of(maps, places, (16, 16)), M)
    g = paper.attention_gradient(taught, x, 500, kv, places, M, "mask")
    way = draw(2, 8, 16, 16, seed=9)
    slope = (loss(x + .02 * way).double() - loss(x - .02 * way).double()) / .04
    assert_close((g * way).sum((1, 2, 3)).double(), slope, rtol=.1, atol=2e-6)
    assert bool((loss(paper.guide_attention(x, g, torch.ones_like(M), .05)) < loss(x)).all())
    assert all(layer.control is None for layer in taught.unet.attentions().values())


def moved(pipe, z, M, **changes):
    return paper.transfer(pipe, z, M, ["mug"] * len(z), options("--sampling", "10", "--start", "3", **changes), 5)


@pytest.fixture
def still(taught, monkeypatch):
    """A model that predicts no noise at all and decodes nothing: what is left is what transfer does around it."""
    monkeypatch.setattr(taught, "predictor", lambda *given: lambda x, t: torch.zeros_like(x))
    monkeypatch.setattr(taught, "decode", lambda z: z)
    monkeypatch.setattr(paper, "attention_gradient", lambda pipe, x, *given: torch.ones_like(x))
    return taught


def test_what_is_known_has_the_noise_level_of_each_step_fresh_noise_and_is_blended_before_the_step(still, monkeypatch):
    seen, z, blend = [], 1000 * torch.ones(1, 8, 16, 16), paper.blend
    monkeypatch.setattr(paper, "blend", lambda x, known, M: seen.append(known) or blend(x, known, M))
    moved(still, z, torch.ones(1, 1, 16, 16), free=2, eta=0.0)
    times = [t for t, _ in steps_of(still.schedule, 10, "ddim")][3:8]                          # t_start 3; the last two are free
    assert len(seen) == len(times)
    for known, t in zip(seen, times):
        share = still.schedule.alpha_bar[t]
        eps = (known - share.sqrt() * z) / (1 - share).sqrt()
        assert abs(float(eps.mean())) < .1 and abs(float(eps.std()) - 1) < .1
    assert not any(torch.allclose(a - a.mean(), b - b.mean()) for a, b in zip(seen, seen[1:]))


def test_the_outside_comes_back_exactly_and_leaving_out_all_steps_is_the_target(still):
    z, M = draw(2, 8, 16, 16), torch.zeros(2, 1, 16, 16)
    assert torch.equal(moved(still, z, M), z)                                                  # an empty mask
    M[..., 3:9, 3:9] = 1
    made = moved(still, z, M)
    assert torch.equal(made * (1 - M), z * (1 - M)) and not torch.allclose(made[..., 3:9, 3:9], z[..., 3:9, 3:9], atol=.5)
    assert torch.equal(moved(still, z, M, start=10), z)
    assert not torch.allclose(moved(still, z, M, free=1) * (1 - M), z * (1 - M), atol=1e-3)
    assert not torch.allclose(moved(still, z, M, no_blending=True) * (1 - M), z * (1 - M), atol=1e-3)


def test_sampling_starts_from_the_noised_target_at_the_level_of_t_start_inside_the_mask_as_well(still, monkeypatch):
    first, z, M = [], 1000 * torch.ones(1, 8, 16, 16), torch.zeros(1, 1, 16, 16)
    M[..., :8] = 1
    monkeypatch.setattr(paper, "attention_gradient", lambda pipe, x, t, *given: first.append((x, t)) or torch.ones_like(x))
    moved(still, z, M, no_blending=True)
    x, t = first[0]
    assert t == steps_of(still.schedule, 10, "ddim")[3][0]
    for half in (x[..., :8], x[..., 8:]):
        assert abs(float(half.mean()) - 1000 * float(still.schedule.alpha_bar[t].sqrt())) < 1
        assert float(half.std()) == pytest.approx(float((1 - still.schedule.alpha_bar[t]).sqrt()), abs=.05)
    assert len(first) == 3                                                                     # steps 3, 4, 5: the first 60 %


def test_no_guidance_at_scale_0_and_a_picture_depends_on_its_own_seed_only(taught, monkeypatch):
    z, M = draw(1, 8, 16, 16).repeat(2, 1, 1, 1), torch.ones(2, 1, 16, 16)
    args = options("--sampling", "5", "--start", "3", eta=0.0)
    monkeypatch.setattr(paper, "attention_gradient", None)
    both = paper.transfer(taught, z, M, ["mug", "vase"], args, [4, 9])
    assert_close(paper.transfer(taught, z[1:], M[1:], ["vase"], args, 9), both[1:], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(both[0], both[1], atol=.05)


def test_the_concept_is_put_by_the_word_with_guidance_and_fresh_noise(taught, monkeypatch):
    asked, predictor = [], taught.predictor
    monkeypatch.setattr(taught, "predictor", lambda *given: asked.append(given) or predictor(*given))
    steps, step = [], paper.ddim_step
    monkeypatch.setattr(paper, "ddim_step", lambda *given: steps.append(given) or step(*given))
    paper.transfer(taught, draw(1, 8, 16, 16), torch.ones(1, 1, 16, 16), ["blue vase"], options("--sampling", "3", "--start", "1"), 0)
    condition, empty, guidance = asked[0]
    assert_close(condition.context, taught.encode_prompts(["a blue vase with <new1>"]).context, rtol=1e-4, atol=1e-4)
    assert_close(empty.context, taught.encode_prompts([""]).context, rtol=1e-4, atol=1e-4)
    assert guidance == 2 and [s[5] for s in steps] == [1.0, 1.0] and [s[3:5] for s in steps] == steps_of(taught.schedule, 3, "ddim")[1:]


# Sec. 3.3: regions


def test_the_region_word_starts_at_v_and_only_it_learns(taught, monkeypatch):
    before = copy.deepcopy(taught.unet.state_dict())
    starts = []
    monkeypatch.setattr(paper.tokens, "add", lambda pipe, word, row, add=tokens.add: starts.append(row.clone()) or add(pipe, word, row))
    paper.learn_region(taught, *source(), "mug", options())
    ids, table = taught.tokenizer.added, taught.text_encoder.text_model.embeddings.token_embedding.weight
    assert torch.equal(starts[0], table[ids["<new1>"]]) and not torch.equal(table[ids["<region>"]], starts[0])
    assert all(torch.equal(w, before[name]) for name, w in taught.unet.state_dict().items())


def test_a_word_is_looked_for_in_the_noised_pictures_and_its_mean_map_is_cut(taught):
    z = draw(2, 8, 16, 16)
    maps = paper.where(taught, z, "a mug with <new1>", "<new1>", 0, n=2)
    total, kv = 0, taught.unet.text_kv(taught.encode_prompts(["a mug with <new1>"] * 2).context)
    with torch.no_grad():
        for k, t in enumerate((199, 799)):
            with paper.recorded(taught.unet) as seen:
                taught.unet(taught.schedule.add_noise(z, noise(z.shape, 1000 * k), t), t, kv)
            total = total + sum(m[:, :, 4] for name, m in seen.items() if name.startswith("up")).reshape(2, 1, 8, 8)
    want = F.interpolate(total, 16, mode="bilinear")
    low, high = want.amin((2, 3), keepdim=True), want.amax((2, 3), keepdim=True)
    assert_close(maps, (want - low) / (high - low), rtol=1e-2, atol=1e-3)
    mask = paper.cut(torch.tensor([[[[.1, .9], [.1, .39]]]]), 4)
    assert mask.shape == (1, 1, 4, 4) and mask[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]


# Sec. 4.1: generation


def test_new_objects_begin_with_the_untouched_model_and_end_with_the_concept(taught, monkeypatch):
    own = taught.unet.state_dict()
    W_0 = {name: own[name].clone() for name in own if ".attn2.to_v." in name}
    W = {name: w + .3 * draw(*w.shape) for name, w in W_0.items()}
    drawn = lambda prompt: taught(prompt, 1, 3, 2.0, 7)
    plain = drawn("a photo of a vase")
    with torch.no_grad():
        [own[name].copy_(w) for name, w in W.items()]
    args = options()
    assert_close(paper.generate(taught, W_0, "vase", [7], options("--plain", "3")), plain, rtol=1e-3, atol=1e-3)
    assert_close(paper.generate(taught, W_0, "vase", [7], options("--plain", "0")), drawn("a photo of a vase with <new1>"), rtol=1e-3, atol=1e-3)
    seen, forward = [], taught.predictor
    name = next(iter(W))
    monkeypatch.setattr(taught, "predictor", lambda *given: seen.append(own[name].clone()) or forward(*given))
    paper.generate(taught, W_0, "vase", [7], args)
    assert torch.equal(seen[0], W_0[name]) and torch.equal(seen[1], W[name]) and torch.equal(own[name], W[name])


# The script


def run(capsys, *arguments):
    paper.main([str(a) for a in arguments])
    return capsys.readouterr().out


def save_source(folder, n=1):
    picture, mask = source()
    images.save(folder / "a.png", picture[0])
    images.save(folder / "m.png", mask[0].repeat(3, 1, 1))
    return folder / "a.png", folder / "m.png"


def test_the_script_learns_puts_it_in_given_and_found_masks_and_makes_new_objects(tmp_path, capsys, monkeypatch):
    a, m = save_source(tmp_path)
    out, use = tmp_path / "out", ["--learned", tmp_path / "out", "--n", 2, "--out", tmp_path / "t"]
    run(capsys, "train", *FAST, "--source", a, "--source-mask", m, "--object", "pot", "--out", out)
    delta = deltas.read(out, fresh().unet)
    assert list(delta.rows) == ["<new1>"] and delta.classes == {"<new1>": "pot"} and json.loads((out / "metrics.json").read_text())["steps"] == 1
    said = run(capsys, "transfer", *FAST, *use, "--target", a, "--target-mask", m, "--target-object", "vase")
    assert "PSNR" in said and {p.name for p in (tmp_path / "t").iterdir()} == {"figure.png", "transfer_0.png", "transfer_1.png"}
    run(capsys, "generate", *FAST, *use, "--target-object", "vase")
    assert (tmp_path / "t" / "samples.png").is_file() and deltas.read_tensors(tmp_path / "t" / "samples.safetensors")["images"].shape == (2, 3, 64, 64)
    prompts, says = [], paper.says
    monkeypatch.setattr(paper, "says", lambda *given: prompts.append(says(*given)) or prompts[-1])
    run(capsys, "transfer", *FAST, *use[:2], "--n", 1, "--target", a, "--out", tmp_path / "found")
    assert set(prompts) == {"a <region> of a pot", "a pot with <new1>"}                        # what was learned from, as nothing else is said
    assert (tmp_path / "found" / "transfer_0.png").is_file()


def test_the_demonstration_writes_its_figure_and_numbers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paper.ornaments, "MEMBERS", ("mug", "vase"))
    monkeypatch.setattr(paper.ornaments, "SIZES", (.3,))
    out = run(capsys, *FAST, "--out", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert "figure.png" in out and (tmp_path / "figure.png").stat().st_size > 5000
    names = {f"{what}_{kind}" for what in ("score", "recognised", "psnr_outside", "mask_iou") for kind in ("same", "other")}
    assert names | {"seconds", "steps", "device"} <= set(metrics) and not any(isinstance(v, (dict, list)) for v in metrics.values())


def test_your_own_pictures_on_a_stable_diffusion_with_masks_that_are_found(tmp_path, capsys, monkeypatch):
    short = {"source": "a {object} {word}", "roi": "{word}", "region": "{word} {object}", "plain": "a {object}", "new": "a red {object} {word}"}
    monkeypatch.setattr(paper, "TOYBOX_SAYS", short)            # the tiny model reads few words
    model = tiny_models.stable_diffusion(tmp_path / "model")
    for i in range(2):
        images.save(tmp_path / "many" / f"{i}.png", torch.rand(3, 24, 20, generator=torch.Generator().manual_seed(i)))
    use = [*FAST, "--model", model, "--object", "chair", "--out", tmp_path / "out"]
    run(capsys, "train", *use, "--sources", tmp_path / "many", "--train", "crossattn")
    assert {f"source_{i}{k}.png" for i in range(2) for k in ("", "_mask")} < {p.name for p in (tmp_path / "out").iterdir()}
    a, m = save_source(tmp_path)
    run(capsys, "transfer", *use, "--source", a, "--source-mask", m, "--target", a, "--target-mask", m, "--n", 1)
    assert (tmp_path / "out" / "transfer_0.png").is_file()


def test_tables_are_means_over_seeds_of_other_ornaments_and_stay_together(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(tables, "learned", lambda args, name: asked.append((args.seed, args.ornament, args.roi, name)) or (None,) * 4)
    monkeypatch.setattr(tables, "put", lambda pipe, args: {"score_same": args.eta + args.seed, "psnr_outside_same": 30.0})
    monkeypatch.setattr(tables, "looks", lambda *given: .5)
    monkeypatch.setattr(tables, "on_whole_objects", lambda *given: {"place": .5, "outline": .5})
    use = ["eval", *FAST, "--repeats", "2", "--out", tmp_path, "--table"]
    assert "eta 0.2" in run(capsys, *use, "guidance") and asked == [(10, "heart", .5, "full"), (11, "bolt", .5, "full")]
    run(capsys, *use, "ablation")
    assert (10, "heart", 0.0, "no_l_RoI") in asked and len(asked) == 2 + 8
    made = json.loads((tmp_path / "table.json").read_text())
    assert set(made) == {"guidance", "ablation"} and made["guidance"]["rows"][0] == {"": "eta 0", "score_same": "10.50 ± 0.71", "psnr_outside_same": "30.0 ± 0.0"}
    assert "Strength of guidance, 2 seeds" in (tmp_path / "table.md").read_text()


def test_on_whole_objects_place_and_outline_of_the_ornament_count(monkeypatch):
    seen = []

    def made(name, shift=0):
        def transferred(pipe, pictures, masks, things, args):
            seen.append(masks)
            with_it = torch.cat([paper.ornaments.carriers(m, 2, 20 + args.seed, name).images for m in paper.ornaments.MEMBERS])
            return with_it.roll(shift, dims=-1)
        monkeypatch.setattr(paper, "transferred", transferred)
        return tables.on_whole_objects(None, options("--seed", "10", ornament="heart"))
    monkeypatch.setattr(paper.ornaments, "MEMBERS", ("mug", "pot"))
    right, other, beside = made("heart"), made("bolt"), made("heart", 9)
    assert right["place"] == 1 and right["outline"] > .75 and other["outline"] < .6 and beside["place"] < .8
    boxes = paper.ornaments.targets("heart", 30).masks
    assert bool((seen[0] >= boxes).float().mean() > .95) and float(seen[0].mean()) > 1.5 * float(boxes.mean())       # the whole object


@pytest.mark.parametrize("member", ["mug", "pot"])
def test_where_an_ornament_belongs_on_a_new_object_is_found_and_what_lies_elsewhere_is_out_of_place(member):
    drawn = paper.ornaments.carriers(member, 6, 3, "heart")
    boxes, true = tables.boxes_on(drawn.images, member, "heart"), paper.ornaments.around(paper.ornaments.part_masks(drawn, "ornament"))
    assert float(paper.overlap(boxes, true).mean()) > .6
    assert float(tables.in_place(drawn.images, boxes).mean()) > .9 and torch.equal(tables.in_place(drawn.images, true), torch.ones(6))
    plain = paper.ornaments.carriers(member, 6, 3).images
    assert float(tables.in_place(plain, boxes).abs().sum()) == 0                               # there is none
    plain[..., :10, :10] = torch.tensor(paper.ornaments.CYAN).reshape(3, 1, 1)
    assert float(tables.in_place(plain, boxes).sum()) == 0
    both = torch.where(torch.arange(64) < 10, plain, drawn.images)
    assert bool((tables.in_place(both, boxes) < .95).all())


def test_an_ornament_alone_is_told_from_one_on_an_object():
    has_object = tables.Surroundings("bolt", n=40)
    assert has_object.accuracy > .97
    drawn = paper.ornaments.carriers("vase", 20, 5, "bolt")
    boxes = paper.ornaments.around(paper.ornaments.part_masks(drawn, "ornament"), 5)
    assert has_object(drawn.images).all() and not has_object(torch.where(boxes > 0, drawn.images, .5)).any()


def test_four_is_best_equal_ones_share_a_rank_and_tenths_of_a_decibel_do_not_count():
    of = lambda score, psnr, kept: {"score": torch.tensor(score), "psnr": torch.tensor(psnr), "kept": torch.tensor(kept)}
    best, middle, same, worst = tables.ranked([of([.9, .2], [30.1, 30.0], [1.0, 1.0]), of([.5, .1], [29.9, 20.0], [1.0, 0.0]),
                                               of([.501, .1], [30.0, 20.0], [1.0, 0.0]), of([.1, .0], [12.0, 10.0], [0.0, 0.0])])
    assert best["quality"] == 4 and middle["quality"] == same["quality"] == 2.5 and worst["quality"] == 1
    first, second = ((3 + 3) / 2, (4 + 4) / 2), ((3 + 3) / 2, (2.5 + 2) / 2)
    assert best["preservation"] == sum(first) / 2 and middle["preservation"] == sum(second) / 2 and worst["preservation"] == ((1 + 1) / 2 + (1 + 2) / 2) / 2
    assert best["rank"] == (4 + 3.5) / 2 and best["score"] == pytest.approx(.55) and worst["psnr"] == 11


def test_the_rank_table_gives_every_method_the_same_pictures_and_keeps_what_was_made(tmp_path, capsys, monkeypatch):
    asked, targets = [], {}

    def moved_by(method, args, given):
        asked.append((method, args.seed, args.ornament))
        assert targets.setdefault(args.seed, given) is given
        with_it = torch.cat([paper.ornaments.carriers(m, 2, 20 + args.seed, args.ornament).images for m in paper.ornaments.MEMBERS])
        return {"CLiC": with_it, "RealFill": torch.zeros_like(with_it)}.get(method, given.images)
    monkeypatch.setattr(tables, "moved_by", moved_by)
    run(capsys, "eval", *FAST, "--repeats", "2", "--out", tmp_path, "--table", "rank")
    assert {seed for _, seed, _ in asked} == {10, 11} and len(asked) == 8 and (tmp_path / "rank" / "11.png").is_file()
    rows = {row[""]: row for row in json.loads((tmp_path / "table.json").read_text())["rank"]["rows"]}
    assert list(rows) == ["Custom Diffusion", "Break-A-Scene", "RealFill", "CLiC"] and rows["CLiC"]["recognised"].startswith("1.00")
    assert rows["CLiC"]["quality"].startswith("4.00") and rows["RealFill"]["rank"] < rows["Break-A-Scene"]["rank"] < rows["CLiC"]["rank"]


def test_other_papers_learn_from_the_same_source_by_their_own_files_once(tmp_path, monkeypatch, capsys):
    calls, targets = [], paper.ornaments.targets("bolt", 31, n=1)

    def script(file, *arguments):
        calls.append([file, *map(str, arguments)])
        out = Path(arguments[arguments.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        (out / "done").write_text("")
    monkeypatch.setattr(tables, "script", script)
    args = options("--ornament", "bolt", "--seed", "11", out=tmp_path)
    for method in ("Custom Diffusion", "Break-A-Scene", "RealFill") * 2:
        assert (tables.by_its_own_file(method, args, targets) / "done").is_file()
    assert [c[0] for c in calls] == ["custom_diffusion.py", "break_a_scene.py", "realfill.py", "realfill.py"] and all(c[c.index("--seed") + 1] == "11" for c in calls)
    picture, mask, _ = paper.given(fresh(), args)
    at = lambda call, option: call[call.index(option) + 1]
    for call in calls[1:2]:
        assert_close(images.load(at(call, "--image"))[None], picture, atol=.003, rtol=0)
        assert torch.equal(images.load(at(call, "--mask"))[None, :1], mask)
    assert at(calls[0], "--images") == at(calls[2], "--references") and len(images.files(at(calls[0], "--images"))) == 1
    assert at(calls[3], "--learned") == at(calls[2], "--out") and "--target" not in calls[2]
    first = calls[3].index("--target") + 1
    assert_close(torch.stack([images.load(p) for p in calls[3][first:first + 3]]), targets.images, atol=.003, rtol=0)


def test_what_another_paper_learned_is_put_into_the_mask_by_its_own_words_without_guidance(taught, tmp_path, monkeypatch):
    deltas.save(tmp_path, tiny_models.changed(taught), {})
    monkeypatch.setattr(tables, "by_its_own_file", lambda *given: tmp_path)
    asked = []
    monkeypatch.setattr(paper, "transferred", lambda pipe, z, M, things, args: asked.append((paper.says(pipe, "source", things[0]), args.eta, "<new1>" in pipe.tokenizer.added)))
    targets = paper.ornaments.targets("heart", 30, n=1)
    for method in ("Custom Diffusion", "Break-A-Scene"):
        tables.moved_by(method, options(), targets)
    thing = targets.things[0]
    assert asked == [(f"a photo of a <new1> {thing}", 0.0, True), (f"a {thing} with a <new1>", 0.0, True)]
    assert paper.says(taught, "source", "mug") == "a mug with <new1>"


def test_new_objects_are_looked_at_with_and_without_their_context(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(tables, "taken", lambda args, name: asked.append((name, args.con)) or (None,) * 5)

    def generate(pipe, W_0, member, seeds, args):
        asked.append((member, list(seeds), args.plain, paper.TOYBOX_SAYS["new"]))
        return paper.ornaments.carriers(member, len(seeds), 60, args.ornament if args.con else None).images
    monkeypatch.setattr(paper, "generate", generate)
    run(capsys, "eval", *FAST, "--repeats", "1", "--n", "2", "--out", tmp_path, "--table", "generation")
    rows = json.loads((tmp_path / "table.json").read_text())["generation"]["rows"]
    assert [r[""] for r in rows] == ["CLiC", "one stage", "no l_con"] and float(rows[2]["both_other"]) == 0
    assert all(float(rows[0][key]) > .9 for key in ("place_same", "object_same", "object_other", "both_same"))
    assert asked[0] == ("full", 1.0) and asked[1] == ("mug", [10, 11], 1, "a photo of a {object} with {word} on a gray background")
    assert [a for a in asked if len(a) == 2] == [("full", 1.0), ("full", 1.0), ("no_l_con", 0.0)] and {a[2] for a in asked if len(a) == 4} == {0, 1}


@pytest.mark.parametrize("arguments, message", [
    (["train", "--steps", "0"], "--steps is 0"), (["train", "--lr", "0"], "above 0"), (["train", "--eta", "2"], "--eta is 2.0"),
    (["train", "--source", "x", "--source-mask", "y"], "--object must say"), (["train", "--att", "-5"], "weights of at least 0"),
    (["train", "--con", "0", "--att", "0", "--roi", "0"], "one above it"), (["train", "--seed", "-20"], "--seed is -20"),
    (["eval", "--table", "x"], "expected all or one of"), (["train", "--source", "x"], "--source-mask"), (["train", "--start", "26"], "--start is 26"), (["train", "--ornament", "moon"], "invalid choice"),
    (["train", "--source", "/nowhere.png", "--source-mask", "m.png", "--object", "mug"], "no picture"), (["train", "--sources", "/nowhere", "--object", "mug"], "no folder"),
    (["train", "--source", "a.png", "--source-mask", "small.png", "--object", "mug"], "size of its picture"), (["train", "--model", "/nowhere"], "no model"),
    (["train", "--source", "a.png", "--source-mask", "black.png", "--object", "mug"], "dark all over"), (["transfer"], "--target"),
    (["transfer", "--target", "/nowhere.png"], "no picture"), (["generate", "--learned", "/nowhere"], "no file"),
    (["transfer", "--target", "a.png", "--learned", "/nowhere"], "no file"), (["--source", "a.png", "--source-mask", "m.png"], "the demonstration")])
def test_bad_arguments_are_one_sentence_and_status_2(tmp_path, capsys, monkeypatch, arguments, message):
    save_source(tmp_path)
    images.save(tmp_path / "small.png", torch.zeros(3, 32, 32))
    images.save(tmp_path / "black.png", torch.zeros(3, 64, 64))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        paper.main([*arguments, "--device", "cpu", "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and "Traceback" not in error and not (tmp_path / "out").exists()
