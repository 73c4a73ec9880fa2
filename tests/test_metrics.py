"""What papers measure: against slow references, known values, and what must not matter."""
import math

import pytest
import torch
from torch.testing import assert_close

from minidiff import CLIP, Tokenizer, toybox
from minidiff.checkpoints import find
from minidiff.images import CLIP_MEAN, CLIP_STD
from minidiff.metrics import clip_embeddings, clip_score, frechet, kid, markdown, mean_std, overlap, perceptual_distance, psnr, spearman
from minidiff.toybox.meter import shipped


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def batch():
    return toybox.sample(24, seed=31)


# ------------------------------------------------------------------------------------------------ rank correlation

def slow_spearman(x, y):
    """From the definition: a value's rank is one more than how many are smaller, plus half of how many others are equal."""
    rank = lambda v: [1 + sum(u < w for u in v) + (sum(u == w for u in v) - 1) / 2 for w in v]
    a, b = rank(x.tolist()), rank(y.tolist())
    mean = (len(a) + 1) / 2
    dot = lambda p, q: sum((i - mean) * (j - mean) for i, j in zip(p, q))
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


@pytest.mark.parametrize("values", [1000, 4, 2])                            # few different values: many ties
@pytest.mark.parametrize("n", [5, 40])
def test_spearman_agrees_with_its_definition_ties_included(n, values):
    x, y = ((rand(n, seed=s) * values).floor() for s in (1, 2))
    assert spearman(x, y) == pytest.approx(slow_spearman(x, y), abs=1e-9)


def test_spearman_sees_the_order_and_nothing_else():
    x, y = rand(20, seed=1), rand(20, seed=2)
    assert spearman(x, x.exp() * 100) == pytest.approx(1)
    assert spearman(x, -x ** 3) == pytest.approx(-1)
    assert spearman(x, y) == pytest.approx(spearman(y, x)) == pytest.approx(-spearman(-x, y))
    assert spearman(torch.tensor([-2, 0, 2]), torch.tensor([.1, .1, .9])) == pytest.approx(math.sqrt(3) / 2)    # integers too


def test_spearman_is_nan_where_there_is_no_order():
    x = rand(5)
    for y in (torch.ones(5), torch.tensor([1, 2, math.nan, 4, 5])):
        assert math.isnan(spearman(x, y)) and math.isnan(spearman(y, x))
    assert math.isnan(spearman(x[:1], x[:1]))
    with pytest.raises(ValueError, match=r"\(5,\) and \(4,\)"):
        spearman(x, x[:4])


# ------------------------------------------------------------------------------------------------ perceptual distance

def test_perceptual_distance_is_equation_1_of_lpips():
    layers = lambda seed: [rand(2, 3, 4, 4, seed=seed) - .5, rand(2, 5, 2, 3, seed=seed + 1) - .5]
    want = torch.zeros(2)
    for y, y_0 in zip(layers(1), layers(3)):
        for n in range(2):
            for h in range(y.shape[2]):
                for w in range(y.shape[3]):
                    u, v = y[n, :, h, w], y_0[n, :, h, w]
                    want[n] += ((u / u.norm() - v / v.norm()) ** 2).sum() / (y.shape[2] * y.shape[3])
    assert_close(perceptual_distance(1, 3, layers), want)


def test_perceptual_distance_is_zero_for_equal_pictures_symmetric_and_grows(batch):
    x, noise = batch.images, torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(0))
    d = lambda a, b: perceptual_distance(a, b, shipped().layers)
    assert d(x, x).shape == (len(x),) and d(x, x).max() == 0
    assert_close(d(x, x.flip(0)), d(x.flip(0), x))
    near, far, other = d(x, x + .02 * noise), d(x, x + .1 * noise), d(x, x.roll(1, 0))
    assert (0 < near).all() and (near < far).all() and (far < other).all() and (other < 4 * 4).all()


def test_the_meters_layers_are_what_its_heads_are_computed_from(batch):
    meter, x = shipped(), batch.images[:3]
    maps = meter.layers(x)
    assert [tuple(m.shape) for m in maps] == [(3, 32, 32, 32), (3, 64, 16, 16), (3, 96, 8, 8), (3, 128, 4, 4)]
    assert torch.equal(torch.nn.functional.silu(meter.hidden(maps[-1].flatten(1))), meter.features(x))
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)               # resized: the same picture, a little softer
    assert perceptual_distance(x, large, meter.layers).max() < .5 * perceptual_distance(x, x.roll(1, 0), meter.layers).min()


# ------------------------------------------------------------------------------------------------ CLIP and Frechet

def test_clip_score_is_higher_for_a_pictures_own_caption(batch):
    folder = find("toybox") / "clip"
    clip, tokenizer = CLIP.from_pretrained(folder, dtype=torch.float32), Tokenizer.from_pretrained(folder)
    shifted = batch.captions[1:] + batch.captions[:1]
    own, other = (clip_score(clip, tokenizer, batch.images, c) for c in (batch.captions, shifted))
    assert own.shape == (24,) and own.abs().max() <= 100 and other.abs().max() <= 100
    assert own.mean() > other.mean() + 30 and (own > other).double().mean() > .9
    assert_close(clip_score(clip, tokenizer, batch.images[:2], batch.captions[0])[:1], own[:1])              # one text for all
    with pytest.raises(ValueError, match="3 texts for 24 pictures"):
        clip_score(clip, tokenizer, batch.images, batch.captions[:3])


def test_clip_score_is_100_times_the_cosine_in_the_order_of_the_pictures():
    on_circle = lambda angle: torch.stack([angle.cos(), angle.sin()], dim=1)

    class Two:                                                              # embeds in the plane: the angle is the first pixel
        config, logit_scale = {"vision_config": {"image_size": 8}}, torch.zeros(())
        encode_image = staticmethod(lambda pixels: 3 * on_circle(pixels[:, 0, 0, 0] * CLIP_STD[0] + CLIP_MEAN[0]))
        encode_text = staticmethod(lambda ids: 7 * on_circle(ids))
    a, b = rand(300, seed=1), 3 * rand(300, seed=2)                         # more than one chunk
    got = clip_score(Two, lambda texts: torch.tensor([float(t) for t in texts]), a.view(300, 1, 1, 1).expand(300, 3, 8, 8),
                     [repr(v) for v in b.tolist()])
    assert_close(got, 100 * (a - b).cos(), atol=1e-3, rtol=0)


def test_frechet_is_zero_for_one_set_and_grows_with_shift_and_spread():
    a = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet(a, a + 2) == pytest.approx(16, rel=1e-6)                 # 4 dimensions, each 2 away
    want = sum((v ** .5 - (9 * v) ** .5) ** 2 for v in torch.linalg.eigvalsh(torch.cov(a.double().T)).tolist())
    assert frechet(a, a.mean(0) + 3 * (a - a.mean(0))) == pytest.approx(want, rel=1e-4)


def test_kid_agrees_with_its_definition():
    a, b = rand(5, 3, seed=1), rand(4, 3, seed=2)
    k = lambda x, y: float((x.double() @ y.double() / 3 + 1) ** 3)
    want = sum(k(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20 - 2 * sum(k(x, y) for x in a for y in b) / 20
    want += sum(k(b[i], b[j]) for i in range(4) for j in range(4) if i != j) / 12
    assert kid(a, b) == pytest.approx(want) == pytest.approx(kid(b, a))


def test_kid_is_0_on_average_for_two_draws_from_one_source_and_grows_with_their_distance():
    draw = lambda n, seed, shift=0.0: torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)) + shift
    same = torch.tensor([kid(draw(8, s), draw(30, 1000 + s)) for s in range(200)])
    assert abs(float(same.mean())) < 3 * float(same.std()) / 200 ** .5 and (same < 0).any()
    near, far = kid(draw(300, 1), draw(300, 2, .5)), kid(draw(300, 1), draw(300, 2, 1.0))
    assert 5 * float(same.std()) / 200 ** .5 < near < far
    for a, b in ((draw(1, 0), draw(5, 1)), (draw(5, 0), draw(5, 1)[:, :3])):
        with pytest.raises(ValueError, match="at least 2 vectors of one width"):
            kid(a, b)


def test_clip_embeddings_are_unit_vectors_of_pictures_and_of_texts(batch):
    folder = find("toybox") / "clip"
    clip, tokenizer = CLIP.from_pretrained(folder, dtype=torch.float32), Tokenizer.from_pretrained(folder)
    I_e, T_e = clip_embeddings(clip, tokenizer, batch.images[:4]), clip_embeddings(clip, tokenizer, batch.captions[:4])
    assert_close(torch.cat([I_e, T_e]).norm(dim=1), torch.ones(8))
    assert_close(100 * (I_e @ T_e.T).diagonal(), clip_score(clip, tokenizer, batch.images[:4], batch.captions[:4]))


# ------------------------------------------------------------------------------------------------ tables

def test_numbers_are_written_with_their_spread():
    assert mean_std([1.0, 2.0, 3.0]) == mean_std(torch.tensor([1, 2, 3])) == "2.00 ± 1.00"
    assert mean_std([0.5]) == "0.50" and mean_std([1, 2], digits=1) == "1.5 ± 0.7"


def test_a_table_has_the_columns_asked_for_in_their_order():
    rows = [{"slider": "age", "span": 0.456, "unused": 1}, {"slider": "a|b", "span": "0.10 ± 0.02", "n": 3}]
    assert markdown(rows, ["slider", "n", "span"]) == (
        "| slider | n | span |\n|---|---|---|\n| age |  | 0.46 |\n| a\\|b | 3 | 0.10 ± 0.02 |\n")
    assert markdown([], {"span": "change of age"}) == "| change of age |\n|---|\n"


def test_psnr_is_ten_decibels_for_every_tenth_of_the_squared_error_and_looks_only_where_it_should():
    a, b = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), .1)
    b[1] = .01
    assert_close(psnr(a, b, torch.ones(2, 1, 4, 4)), torch.tensor([20.0, 40.0]), atol=1e-3, rtol=0)
    where = torch.zeros(2, 1, 4, 4)
    where[..., :2] = 1
    b[..., 2:] = .7
    assert_close(psnr(a, b, where), torch.tensor([20.0, 40.0]), atol=1e-3, rtol=0)


def test_overlap_is_the_shared_area_over_that_of_both():
    a, b = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    a[..., :2, :], b[..., 1:3, :] = 1, 1
    assert float(overlap(a, b)) == pytest.approx(4 / 12)
    assert float(overlap(a, a)) == 1
