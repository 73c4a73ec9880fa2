"""minidiff/stylegan.py and papers/stylegan.py: the layers' equations, the style space, the losses, training, and the script."""
import argparse
import json
from contextlib import contextmanager

import numpy as np
import pytest
import stylegan as paper
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from minidiff import CheckpointError, images
from minidiff.checkpoints import find
from minidiff.stylegan import Discriminator, Generator, Linear, StyledConv, demodulation, smooth, variety
from minidiff.training import Run

TINY = dict(width=8, channels=(8, 8, 6, 6), mapping=2)
TINY_D = dict(channels=(4, 6, 8, 8), group=2)


@pytest.fixture
def G():
    torch.manual_seed(0)
    return Generator(**TINY).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny generator on disk, with a channel said to be found for smile."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    Generator(**TINY).save(folder)
    (folder / "channels.json").write_text(json.dumps({"smile": {"attribute": "smile", "layer": "8_conv", "channel": 2, "sign": 1}}))
    return folder


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# layers


def test_demodulation_gives_every_output_unit_variance_whatever_the_styles():
    w, s = normal(5, 16, 3, 3), 1 + 3 * normal(2, 16, seed=1).abs()
    x = normal(2, 16, 60, 60, seed=2)                                       # unit variance, as the equation assumes
    y = F.conv2d(x * s[:, :, None, None], w) * demodulation(w, s)[:, :, None, None]
    assert_close(y.std((2, 3)), torch.ones(2, 5), rtol=.1, atol=0)


def test_modulating_the_input_is_modulating_the_weights_of_each_sample():
    layer = StyledConv(4, 3, 5).requires_grad_(False)
    layer.bias.normal_(), layer.strength.fill_(.5)
    x, s, noise = normal(2, 3, 6, 6), normal(2, 3, seed=1), normal(2, 1, 6, 6, seed=2)
    w = layer.weight / 27 ** .5
    for i in range(2):
        w_i = w * s[i][None, :, None, None]                                 # Eq. (1)
        w_i = w_i / w_i.square().sum((1, 2, 3), keepdim=True).sqrt()        # Eq. (3)
        want = F.leaky_relu(F.conv2d(x[i:i + 1], w_i, padding=1) + .5 * noise[i] + layer.bias, .2)
        assert_close(layer(x, s, noise)[i:i + 1], want)


def test_doubling_is_repeating_pixels_and_then_convolving():
    layer = StyledConv(4, 3, 5, up=True).requires_grad_(False)
    x, w = normal(2, 3, 5, 5), layer.weight
    want = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), w, padding=1)
    assert_close(layer.convolve(x, w), want, rtol=1e-4, atol=1e-4)


def test_smoothing_takes_out_single_pixel_patterns_and_keeps_flat_colour():
    rows = torch.arange(8) % 2
    stripes = (rows[:, None] * torch.ones(8) * 2 - 1).expand(1, 3, 8, 8)
    assert_close(smooth(stripes)[..., 1:-1, :], torch.zeros(1, 3, 6, 8))
    assert_close(smooth(torch.full((1, 3, 8, 8), .7)), torch.full((1, 3, 8, 8), .7))


def test_equalised_layers_start_with_unit_variance_and_learn_at_their_rate():
    torch.manual_seed(0)
    slow, fast = Linear(400, 300, rate=.01), Linear(400, 300)
    x = normal(50, 400, seed=9)                                             # the weights came from seed 0
    assert_close(slow(x).std(), torch.tensor(1.0), rtol=.05, atol=0)
    slow.weight.data = fast.weight.data / .01
    before = slow(x).detach()
    slow.weight.data += .5
    fast_before = fast(x).detach()
    fast.weight.data += .5
    assert_close(slow(x) - before, .01 * (fast(x) - fast_before), rtol=1e-2, atol=1e-3)
    before = slow(x).detach()
    slow.bias.data += 1
    assert_close(slow(x) - before, torch.full((50, 300), .01), rtol=1e-2, atol=1e-4)


def test_variety_is_zero_for_equal_pictures_and_grows_with_difference():
    x = normal(1, 3, 4, 4).repeat(4, 1, 1, 1)
    assert float(variety(x, 4).max()) < 1e-3
    y = normal(4, 3, 4, 4)
    assert_close(variety(3 * y, 4), 3 * variety(y, 4))
    assert_close(variety(y, 2)[0], variety(y[[0, 2]], 2)[0])                # pictures 0 and 2 are a group, 1 and 3 the other
    with pytest.raises(ValueError, match="groups of 4"):
        variety(normal(6, 3, 4, 4), 4)


# the style space


def test_styles_then_synthesize_is_forward_and_the_same_z_is_the_same_picture(G):
    z, noise = normal(3, 8), G.noise(3, torch.Generator().manual_seed(1))
    picture = G(z, noise)
    assert picture.shape == (3, 3, 64, 64) and G.size == 64
    assert_close(G.synthesize(G.styles(G.map(z)), noise), picture, rtol=0, atol=0)
    assert_close(G(z, G.noise(3, torch.Generator().manual_seed(1))), picture, rtol=0, atol=0)
    assert not torch.equal(G(normal(3, 8, seed=5), noise), picture)
    assert_close(G(7 * z, noise), picture)                                  # only the direction of z counts


def test_one_w_for_each_layer_is_used_layer_by_layer(G):
    w = normal(2, len(G.layers), 8)
    styles = G.styles(w)
    for i in range(len(G.layers)):
        assert_close(styles[i], G.styles(w[:, i])[i])


def test_moving_a_channel_changes_only_what_lies_behind_it(G):
    styles, seen = G.styles(G.map(normal(1, 8))), {}
    for name, block in G.blocks.items():
        block.register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, []).append(out))
    G.synthesize(styles)
    G.synthesize(paper.moved(styles, G.layers.index("16_up"), 3, 5.0))
    changed = {name for name, (a, b) in seen.items() if not torch.equal(a, b)}
    assert changed == set(G.layers[G.layers.index("16_up"):])


def test_moving_a_tRGB_style_changes_no_features(G):
    styles, seen = G.styles(G.map(normal(1, 8))), []
    G.blocks["32_conv"].register_forward_hook(lambda _, __, out: seen.append(out))
    before, after = G.synthesize(styles), G.synthesize(paper.moved(styles, G.layers.index("16_rgb"), 0, 5.0))
    assert torch.equal(*seen) and not torch.equal(before, after)


def test_moving_leaves_the_given_styles_alone(G):
    styles = G.styles(G.map(normal(2, 8)))
    copies = [s.clone() for s in styles]
    changed = paper.moved(styles, 1, 2, 1.5)
    assert_close(changed[1] - styles[1], 1.5 * F.one_hot(torch.tensor(2), 8).expand(2, 8))
    assert all(torch.equal(a, b) for a, b in zip(styles, copies))


def test_noise_is_scaled_by_its_learned_strength(G):
    z, noise = normal(1, 8), G.noise(1, torch.Generator().manual_seed(1))
    assert_close(G(z, noise), G(z), rtol=0, atol=0)                         # strengths start at 0
    G.blocks["16_conv"].strength.fill_(1.0)
    assert not torch.equal(G(z, noise), G(z))


def test_mixing_gives_early_layers_one_person_and_later_ones_another(G):
    w = paper.mixed(G, 40, torch.Generator().manual_seed(0), share=.5)
    switches = (w[:, 1:] != w[:, :-1]).any(-1).sum(1)
    assert set(switches.tolist()) == {0, 1} and 8 < int(switches.sum()) < 32
    always = paper.mixed(G, 40, torch.Generator().manual_seed(0), share=1)
    assert (always[:, 1:] != always[:, :-1]).any(-1).sum(1).eq(1).all()     # also with the cut before the last layer
    assert int((paper.mixed(G, 40, torch.Generator().manual_seed(0), share=0)[:, 1:] != w[:, :1]).any(-1).sum()) == 0


def test_truncation_pulls_towards_the_mean():
    w, mean = normal(3, 8), normal(8, seed=1)
    assert_close(paper.truncated(w, mean, 1.0), w)
    assert_close(paper.truncated(w, mean, 0.0), mean.expand(3, 8))
    assert_close(paper.truncated(w, mean, .5), (w + mean) / 2)


# losses


def test_d_and_g_want_opposite_things_of_a_fake():
    D, real, fake = (lambda x: x), torch.tensor([2.0]), torch.tensor([-1.0])
    assert_close(paper.d_loss(D, real, fake), -torch.sigmoid(real).log().mean() - torch.sigmoid(-fake).log().mean())
    assert_close(paper.g_loss(D, fake), -torch.sigmoid(fake).log().mean())


def test_r1_is_the_mean_of_the_squared_gradients_of_single_pictures():
    torch.manual_seed(0)
    D, real = Discriminator(**TINY_D | {"group": 1}).double(), normal(3, 3, 64, 64).double()
    total = 0.0
    for i in range(3):
        x = real[i:i + 1].clone().requires_grad_()
        step = torch.autograd.grad(D(x).sum(), x)[0]
        total += float(step.square().sum())
    penalty = paper.r1(D, real)
    assert_close(float(penalty.detach()), total / 3)
    penalty.backward()
    assert D.first.weight.grad.abs().sum() > 0 and real.grad is None


# files and training


def test_saved_and_loaded_it_draws_the_same_within_half_precision(G, tmp_path):
    G.save(tmp_path)
    again = Generator.from_pretrained(tmp_path)
    assert again.config == G.config and not any(p.requires_grad for p in again.parameters())
    assert_close(again(normal(2, 8)), G(normal(2, 8)), rtol=0, atol=.02)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"channels": [8, 8, 6]}))
    with pytest.raises(CheckpointError, match="32_conv"):
        Generator.from_pretrained(tmp_path)


def options(verb, out, *more):
    _, args = paper.arguments([*verb, "--out", str(out), "--device", "cpu", *map(str, more)])
    return argparse.Namespace(**vars(args) | {"G": TINY, "D": TINY_D})


@pytest.fixture
def few_pictures(monkeypatch):
    monkeypatch.setattr(paper, "draw", lambda n, seed: np.random.default_rng(seed).integers(0, 256, (n, 3, 64, 64), np.uint8))


def test_training_stopped_and_resumed_arrives_at_the_same_place(few_pictures, tmp_path):
    def weights(out, *steps):
        for n in steps:
            paper.train(options(["train"], out, "--steps", n, "--batch", 4, "--pictures", 8))
        return torch.load(out / "stylegan" / "checkpoint.pt", weights_only=True)["modules"]
    torch.manual_seed(1)
    whole = weights(tmp_path / "a", 6)
    start, second = weights(tmp_path / "c", 1), weights(tmp_path / "d", 2)
    stopped = stop_after(3, tmp_path / "b", weights)
    for name in ("G", "D"):
        assert all(torch.equal(whole[name][k], stopped[name][k]) for k in whole[name])
        assert any(not torch.equal(whole[name][k], start[name][k]) for k in whole[name])
    assert all(torch.equal(start["G"][k], v) for k, v in initial("G").items())          # the first turn is D's,
    assert all(torch.equal(start["D"][k], v) for k, v in second["D"].items())           # the second G's


def test_what_was_trained_and_searched_has_the_files_of_what_is_shipped(few_pictures, brightness, monkeypatch, tmp_path):
    monkeypatch.setattr(paper, "judged", lambda G, where, *how: {"score": where["score"]})                      # it takes long
    paper.train(options(["train"], tmp_path, "--steps", 2, "--batch", 4, "--pictures", 8))
    where = tmp_path / "stylegan"
    paper.main(["channels", "--model", str(where), "--out", str(where), "--n", "2"])
    files = lambda folder: {path.name for path in folder.iterdir()}
    assert files(find("toybox") / "stylegan") <= files(where)
    G, found = paper.load(options(["pairs", "--attribute", "age"], tmp_path, "--model", where))
    assert set(found) == set(paper.ATTRIBUTES) and G.config["channels"] == list(TINY["channels"])


@pytest.mark.parametrize("rank", [0, 1])
def test_several_processes_draw_and_write_once_and_leave_alone_whose_turn_it_is_not(few_pictures, monkeypatch, tmp_path, rank):
    """As if a second process had the same gradients: then their mean is that of one process, and so are all weights."""
    class OneOfTwo(Run):
        def __init__(self, *args, **how):
            super().__init__(*args, **how)
            self.rank, self.world = rank, 2
    first = []

    @contextmanager
    def main_process_first():
        first.append((tmp_path / "two").exists())
        yield
        first.append((tmp_path / "two").exists())
    learn = lambda name: paper.train(options(["train"], tmp_path / name, "--steps", 6, "--batch", 4, "--pictures", 8))
    learn("one")
    monkeypatch.setattr(paper, "Run", OneOfTwo)
    monkeypatch.setattr(paper, "main_process_first", main_process_first)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda numbers, op=None: numbers.mul_(2 if op is None else 1))
    learn("two")
    assert first == [False, True] and (tmp_path / "two" / "stylegan").exists() == (rank == 0)
    if rank == 0:
        one, two = (torch.load(tmp_path / name / "stylegan" / "checkpoint.pt", weights_only=True) for name in ("one", "two"))
        assert_close(two["modules"], one["modules"])
        assert_close(two["optimizer"]["state"], one["optimizer"]["state"])


def initial(name):
    torch.manual_seed(0)
    return dict(G=Generator(**TINY), D=Discriminator(**TINY_D))[name].state_dict()


def stop_after(step, out, weights):
    """Weights of a run of 6 steps that was asked to stop after `step` and started again."""
    class Stopping(paper.Run):
        def update(self, *args, **kwargs):
            self.interrupted = self.step + 1 == step
            super().update(*args, **kwargs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "Run", Stopping)
        with pytest.raises(SystemExit):
            weights(out, 6)
    return weights(out, 6)


# the verbs


def test_pairs_are_the_same_people_with_one_channel_moved(folder, tmp_path):
    where = ["--model", str(folder), "--out", str(tmp_path)]
    paper.main(["pairs", *where, "--attribute", "smile", "--n", "2", "--strengths", "-1", "0", "1"])
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png")) == sorted(
        f"{s}/{i:03d}.png" for s in ("-1", "0", "1") for i in range(2))
    low, middle, high = (images.load_folder(tmp_path / s, 64) for s in ("-1", "0", "1"))
    assert not torch.equal(low, high) and (low - middle).abs().mean() < (low - low.flip(0)).abs().mean()


def test_a_channel_turned_round_swaps_before_and_after(folder, G):
    styles, one = paper.people(G, 2, 0)[0], paper.parsed(G, "8_conv:2", "smile")
    other = paper.parsed(G, "8_conv:-2", "smile")
    assert (one["sign"], other["sign"], one["channel"], other["channel"]) == (1, -1, 2, 2)
    a, b = (paper.make_pairs(G, w, 1, 0, candidates=1) for w in (one, other))
    assert torch.equal(a[-1], b[1]) and torch.equal(a[1], b[-1])
    assert styles[0].shape == (2, 8)


@pytest.fixture
def brightness(monkeypatch):
    """In place of the meter: "age" is how bright a picture is, and all else stays."""
    def reading(faces):
        nothing = torch.zeros(len(faces))
        return torch.stack([faces.mean((1, 2, 3))] + [nothing] * 6, 1), [nothing[:, None]] * 3
    monkeypatch.setattr(paper, "reading", reading)
    monkeypatch.setattr(paper, "measure", lambda faces: {"kind_p": torch.ones(len(faces), 5)})


def test_search_finds_the_channel_that_was_made_to_matter(G, brightness):
    for block in G.blocks.values():                                         # all channels dead but one of one layer
        block.affine.weight.mul_(.01)
    G.blocks["32_conv"].affine.weight[4] = 3.0
    row = paper.search(G, n=4)[0]
    assert (row["layer"], row["channel"], row["attribute"]) == ("32_conv", 4, "age") and row["purity"] > .99 and row["effect"] > 0
    pair = paper.make_pairs(G, row, 4, 0)
    assert pair[1].mean() > pair[-1].mean()                                 # the sign turns it the right way


def test_the_pairs_taken_are_those_that_change_most(G, brightness):
    where = {"attribute": "age", "layer": "16_conv", "channel": 1, "sign": 1}
    change = lambda pair: (pair[1] - pair[-1]).mean((1, 2, 3))
    everybody, taken = paper.make_pairs(G, where, 12, 0, candidates=1), paper.make_pairs(G, where, 3, 0, candidates=4)
    assert_close(change(taken).sort().values, change(everybody).sort().values[-3:])


def test_purity_is_the_share_in_all_that_changes():
    signed, kept = torch.tensor([[-.3, .1, 0, 0, 0, 0, 0]]), torch.tensor([[.2, 0, 0]])
    assert_close(paper.purity(signed, kept)[0, :2], torch.tensor([.5, 1 / 6]))


@pytest.mark.parametrize("words, sentence", [
    (["pairs", "--attribute", "nose"], "expected one of age"),
    (["pairs", "--attribute", "age"], "no channel is known for attribute 'age', only for smile"),
    (["pairs", "--attribute", "age", "--channel", "nowhere:3"], "layer 'nowhere': expected one of 4_conv"),
    (["pairs", "--attribute", "age", "--channel", "8_conv:99"], "expected 0 to 7"),
    (["pairs", "--attribute", "age", "--channel", "8_conv"], "expected LAYER:CHANNEL"),
    (["pairs", "--attribute", "smile", "--strengths", "1"], "two or more different numbers"),
    (["pairs", "--attribute", "smile", "--strengths", "-1", "nan"], "two or more different numbers"),
    (["pairs", "--attribute", "smile", "--n", "0"], "--n is 0, expected at least 1"),
    (["train", "--batch", "6"], "expected a multiple of 4"),
    (["train", "--minutes", "0"], "--minutes is 0.0"),
    (["channels", "--by", "nan"], "--by is nan"),
    (["eval", "--n", "10"], "expected at least 600"),
    (["channels", "--psi", "-1"], "--psi must be"),
])
def test_bad_input_gets_a_sentence_and_status_2(words, sentence, folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        paper.main([*words, "--model", str(folder), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_model_and_a_foreign_channel_table_are_refused(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        paper.main(["pairs", "--attribute", "smile", "--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "config.json" in capsys.readouterr().err
    torch.manual_seed(0)
    Generator(**TINY).save(tmp_path)
    (tmp_path / "channels.json").write_text('{"smile": {"layer": "64_conv", "channel": 0}}')
    with pytest.raises(SystemExit) as stop:
        paper.main(["pairs", "--attribute", "smile", "--model", str(tmp_path), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "channels.json does not fit" in capsys.readouterr().err
