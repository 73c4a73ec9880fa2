"""minidiff/upsampler.py and papers/upsampler.py: one stage, the cascade, what it learns from, what is measured, the script."""
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import upsampler as paper
from torch.testing import assert_close

from minidiff import images, toybox
from minidiff.checkpoints import save_folder
from minidiff.metrics import psnr
from minidiff.schedule import Schedule
from minidiff.unet import UNet, zero_residuals
from minidiff.upsampler import Upsampler, cascade, in_patches, in_pixels, upsample
from minidiff.vae import VAE

SIZES = ["--first", "16", "--crop", "16", "--channels", "4", "4", "--pictures", "12", "--batch", "4", "--seed", "3", "--device", "cpu"]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def stage(low=8, high=16, patch=2, zero=False, std=.3, noise=.2):
    torch.manual_seed(0)
    unet = UNet(**paper.unet_config([4, 4], patch)).requires_grad_(False)
    return Upsampler(zero_residuals(unet) if zero else unet, Schedule(**paper.SCHEDULE), low, high, std, noise)


def bicubic(x, factor=2):
    return F.interpolate(2 * x - 1, scale_factor=factor, mode="bicubic", align_corners=False) / 2 + .5


@pytest.fixture(scope="module")
def small():
    return toybox.sample(3, 5, size=8).images


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with an autoencoder and two stages, 16 -> 32 -> 64, each trained for 2 steps."""
    out = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    vae = VAE(block_out_channels=(6, 6), latent_channels=4, layers_per_block=1, norm_num_groups=3, patch_size=2)
    save_folder(vae, vae.config, out / "vae", dtype=torch.float32)
    for size in (32, 64):
        paper.main(["train", "--to", str(size), "--steps", "2", "--out", str(out), *SIZES])
    return out


# one stage -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("p", [1, 2, 4])
def test_the_channels_of_a_place_are_its_pixels(p):
    x = torch.randn(2, 3, 8, 12, generator=rng())
    patches = in_patches(x, p)
    assert patches.shape == (2, 3 * p * p, 8 // p, 12 // p) and torch.equal(in_pixels(patches, p), x)
    assert torch.equal(patches[1, :, 1, 2], x[1, :, p:2 * p, 2 * p:3 * p].flatten())


def test_a_network_that_knows_what_is_missing_gives_the_truth_whatever_the_steps(small):
    up, y = stage(), toybox.sample(3, 5, size=16).images
    for steps in (1, 2, 5):
        up.predict = lambda x_t, t, b_s, s: up.missing_of(2 * y - 1, up.enlarged(2 * small - 1))
        assert_close(up(small, steps=steps, s=.1), y, atol=1e-5, rtol=0)


def test_a_network_that_draws_nothing_gives_bicubic_interpolation_however_noisy_what_it_is_told(small):
    for s in (0.0, .1):
        assert_close(stage(zero=True)(small, steps=2, s=s), bicubic(small).clamp(0, 1), atol=1e-5, rtol=0)


def test_the_network_is_told_x_t_the_noisy_picture_and_how_noisy(small):
    up, given = stage(), []
    up.unet.forward = lambda x, t: given.append((x, t)) or torch.zeros_like(x[:, :12])
    b, x_t = torch.randn(3, 3, 16, 16, generator=rng()), torch.randn(3, 12, 8, 8, generator=rng(1))
    up.predict(x_t, 7, b, torch.tensor([0.0, .1, .2]))
    x, t = given[0]
    assert_close(x[:, :12], up.schedule.alpha_bar[7].sqrt() * x_t)
    assert torch.equal(x[:, 12:24], in_patches(b, 2)) and t == 7
    assert_close(x[:, 24], torch.tensor([0, .5, 1])[:, None, None].expand(-1, 8, 8))
    given.clear()
    many = small[:1].repeat(40, 1, 1, 1)
    up(many, steps=1, s=.05, batch=40)
    assert_close(given[0][0][:, 24], torch.full((40, 8, 8), .25))
    seen = in_pixels(given[0][0][:, 12:24], 2)
    noise = F.interpolate(torch.randn(500, 3, 8, 8, generator=rng()) * .05, scale_factor=2, mode="bicubic", align_corners=False)
    assert_close((seen - up.enlarged(2 * many - 1)).std(), noise.std(), atol=.002, rtol=0)


def test_a_picture_depends_on_its_seed_and_on_no_neighbour(small):
    up = stage()
    three = up(small, steps=2, seed=4)
    assert_close(up(small[1:2], steps=2, seed=5), three[1:2], atol=1e-5, rtol=0)
    assert_close(up(small, steps=2, seed=[4, 5, 6], batch=2), three, atol=1e-5, rtol=0)
    assert (up(small, steps=2, seed=9) - three).abs().max() > 1e-3


def test_other_sizes_are_enlarged_too():
    assert stage()(torch.rand(1, 3, 12, 20, generator=rng()), steps=1).shape == (1, 3, 24, 40)
    assert stage(8, 32, patch=4)(torch.rand(1, 3, 8, 8, generator=rng()), steps=1).shape == (1, 3, 32, 32)     # the paper's factor


# the cascade -----------------------------------------------------------------------------------------------------

def test_a_cascade_is_its_stages_one_after_the_other(model):
    x = toybox.sample(2, 1, size=16).images
    stages = cascade(model, 16, 64)
    assert [(s.low, s.high) for s in stages] == [(16, 32), (32, 64)] and cascade(model, 64, 64) == []
    want = stages[1](stages[0](x, 2, .1, 3), 2, .1, 3)
    assert torch.equal(upsample(stages, x, 3, 2, .1), want) and want.shape == (2, 3, 64, 64)


def test_what_is_saved_is_what_was_trained(model, tmp_path):
    up = Upsampler.from_pretrained(model / "upsampler_32")
    assert up.noise == .1 and .01 < up.std < 1 and up.schedule.prediction_type == "sample"
    config = json.loads((model / "upsampler_32" / "config.json").read_text())
    assert config["low"] == 16 and config["std"] == up.std and not up.unet.training


@pytest.mark.parametrize("low, high, says", [(16, 128, "no upsampler to 128 pixels"), (64, 128, "no upsampler to 128"), (24, 64, "lead from 16 pixels"),
                                             (16, 48, "train --to 48")])
def test_a_missing_stage_is_one_sentence(model, low, high, says):
    with pytest.raises(ValueError, match=says):
        cascade(model, low, high)


def test_a_folder_that_is_no_upsampler_is_refused(tmp_path):
    unet = UNet(**paper.unet_config([4, 4], 2))
    save_folder(unet, unet.config, tmp_path / "upsampler_32")
    with pytest.raises(ValueError, match="does not say low, high, std, noise"):
        cascade(tmp_path, 16, 32)
    save_folder(unet, unet.config | dict(low=32, high=32, std=.1, noise=.1), tmp_path / "upsampler_32")
    with pytest.raises(ValueError, match="from 32 to 32 pixels"):
        cascade(tmp_path, 16, 32)


# training --------------------------------------------------------------------------------------------------------

def options(model, *more):
    args = paper.arguments(["train", "--to", "32", "--out", str(model), *SIZES, *more])
    args.device = torch.device("cpu")
    paper.check_sizes(args)
    return args


def test_small_and_large_crops_are_of_one_scene_and_one_place(model):
    pairs = paper.prepared(options(model, "--made", "0"))
    y, z = pairs(24, rng())
    assert y.shape == (24, 3, 16, 16) and z.shape == (24, 3, 8, 8)
    off = lambda z: (F.avg_pool2d(y, 2) - z).abs().mean(dim=(1, 2, 3))
    assert off(z).mean() < .06 < off(z.roll(1, 0)).mean()                     # another scene's
    shifted = [(off(z.roll(shift, (2, 3))) > off(z)).float().mean() for shift in ((0, 1), (1, 0))]
    assert min(shifted) > .9                                                  # the same scene's, a pixel beside


def test_crops_are_taken_everywhere(model):
    args = options(model, "--made", "0")
    _, z = paper.prepared(args)(60, rng(2))
    whole = paper.store_of(16, args).images(torch.randint(12, (60,), generator=rng(2)))
    off = (whole.unfold(2, 8, 1).unfold(3, 8, 1) - z[:, :, None, None]).abs().amax(dim=(1, 4, 5))        # (60, 9, 9): of every place
    assert (off.flatten(1).amin(dim=1) == 0).all()
    rows, columns = (off == 0).any(dim=2), (off == 0).any(dim=1)
    assert rows.any(dim=0).all() and columns.any(dim=0).all() and not torch.equal(rows, columns)


def test_the_other_small_pictures_are_what_comes_before_makes_of_them(model):
    args = options(model, "--made", "1", "--crop", "32")
    y, z = paper.prepared(args)(6, rng(1))
    index = torch.randint(12, (6,), generator=rng(1))
    x = (paper.store_of(16, args).images(index) + 1) / 2
    vae = VAE.from_pretrained(model / "vae")
    assert_close((z + 1) / 2, paper.decoded(vae, x), atol=.003, rtol=0)
    args = options(model, "--to", "64", "--made", "1", "--crop", "64")
    y, z = paper.prepared(args)(6, rng(1))
    given = paper.decoded(vae, (paper.store_of(16, args).images(torch.arange(12)) + 1) / 2)
    want = upsample(cascade(model, 16, 32), given, 0, steps=2)[index]
    assert_close((z + 1) / 2, want, atol=.003, rtol=0)


def test_training_asks_for_what_bicubic_lacks_of_noisy_pictures(model, tmp_path, monkeypatch):
    for part in ("vae", "pictures_16", "pictures_32"):
        (tmp_path / part).symlink_to(model / part)
    asked, losses, predict, loss = [], [], Upsampler.predict, paper.upsampler_loss
    monkeypatch.setattr(Upsampler, "predict", lambda self, *given: asked.append((self, *given)) or predict(self, *given))
    monkeypatch.setattr(paper, "upsampler_loss", lambda *given: losses.append((*given, loss(*given))) or losses[-1][-1])
    clean = []
    monkeypatch.setattr(paper, "augmented", lambda z, s, g: clean.append((z, s)) or z + s.reshape(-1, 1, 1, 1))
    paper.main(["train", "--to", "32", "--steps", "12", "--out", str(tmp_path), *SIZES])
    times, strengths = torch.cat([a[2] for a in asked]), torch.cat([a[4] for a in asked])
    assert times.min() < 100 and times.max() > 900 and strengths.min() < .015 and .085 < strengths.max() <= .1
    for (up, x_t, t, b_s, s), (prediction, x_0, _), (z, s_) in zip(asked, losses, clean):
        assert torch.equal(s, s_)
        assert_close(b_s, up.enlarged(z + s.reshape(-1, 1, 1, 1)))
        y = (in_pixels(x_0, 2) * up.std + up.enlarged(z) + 1) * 127.5         # a picture of the store, of whole numbers
        assert_close(y, y.round().clamp(0, 255), atol=.01, rtol=0)
        eps = up.schedule.eps_given_x0(x_0, x_t, t)[t > 300]
        assert not len(eps) or .9 < eps.std() < 1.1
    assert_close(losses[0][2].detach(), losses[0][1].abs().mean())            # it begins with nothing
    assert .5 < sum(float(x_0.square().mean()) for _, x_0, _ in losses) / 12 < 2                    # in units of std


# measuring -------------------------------------------------------------------------------------------------------

def test_the_truth_is_as_sharp_as_itself_blur_is_less_and_noise_is_texture():
    y = toybox.sample(4, 2, "object", size=64).images
    same, soft = paper.edges(y, y), paper.edges(F.avg_pool2d(F.pad(y, (2, 2, 2, 2), mode="replicate"), 5, stride=1), y)
    noisy = paper.edges((y + .02 * torch.randn(y.shape, generator=rng())).clamp(0, 1), y)
    assert same["slope error"] == 0 and same["sharpness"] == pytest.approx(1)
    assert soft["sharpness"] < .6 and soft["slope error"] > 1
    assert noisy["texture"] > 3 * same["texture"] + 1 and noisy["sharpness"] == pytest.approx(1, abs=.03)


def test_the_meter_agrees_with_the_truth_and_not_with_other_scenes():
    batch = toybox.sample(8, 2)
    assert paper.agreement(batch.images, batch.images, batch.attributes) == 1
    assert paper.agreement(batch.images.roll(1, 0), batch.images, batch.attributes) < .8


# the script ------------------------------------------------------------------------------------------------------

def test_every_verb_writes_what_it_says(model, tmp_path, capsys):
    how = ["--model", str(model), "--low", "16", "--size", "64", "--sampling", "1", "--device", "cpu"]
    paper.main([*how, "--out", str(tmp_path / "demo")])
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert (tmp_path / "demo" / "figure.png").is_file() and {"PSNR, cascade", "sharpness, bicubic", "seconds", "device", "steps"} <= set(metrics)
    images.save(tmp_path / "a.png", torch.rand(3, 40, 30))
    paper.main(["enlarge", "--images", str(tmp_path / "a.png"), *how, "--out", str(tmp_path / "large")])
    assert images.load(tmp_path / "large" / "a_64.png").shape == (3, 64, 64)
    images.save(tmp_path / "other" / "a.png", torch.zeros(3, 16, 16))
    paper.main(["enlarge", "--images", str(tmp_path / "a.png"), str(tmp_path / "other" / "a.png"), *how, "--out", str(tmp_path / "two")])
    one, two = (images.load(tmp_path / "two" / f"{i}_a_64.png") for i in (1, 2))                  # neither takes the other's place
    assert torch.equal(one, images.load(tmp_path / "large" / "a_64.png")) and not torch.equal(one, two)
    paper.main(["eval", *how, "--pictures", "2", "--repeats", "2", "--out", str(tmp_path / "eval")])
    rows = json.loads((tmp_path / "eval" / "table.json").read_text())["rows"]
    assert [row[""] for row in rows[:3]] == ["32, render, bicubic", "32, render, 1 step", "32, render, 1 steps"] and "±" in rows[0]["PSNR"]
    assert "64, decoded, bicubic" in [row[""] for row in rows] and "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("argv, says", [
    (["--model", "/nowhere"], "no folder /nowhere"), (["--model", "{model}"], "no upsampler to 256 pixels"), (["train", "--from", "60", "--to", "128"], "--from 60"),
    (["train", "--to", "1"], "--to is 1"), (["train", "--crop", "33", "--to", "64"], "--crop 33"), (["train", "--channels", "6"], "multiples of 4"),
    (["train", "--channels", "0", "0", "0"], "--channels 0 0 0: expected multiples of 4, from 4 on"),
    (["train", "--to", "256", "--pictures", "1", "--first", "16", "--from", "128"], "no upsampler to 128"), (["enlarge"], "--images"), (["--s", "3"], "--s is 3"),
    (["enlarge", "--images", "/nowhere.png", "--model", "{model}", "--low", "16", "--size", "32"], "no picture at /nowhere.png"), (["--device", "abacus"], "abacus")])
def test_bad_input_is_one_sentence_and_status_2(model, tmp_path, argv, says, capsys):
    with pytest.raises(SystemExit) as stop:
        paper.main([*[a.format(model=model) for a in argv], "--out", str(tmp_path)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and says in error and "Traceback" not in error


def test_scenes_are_the_same_at_every_size(tmp_path):
    from minidiff.toybox.store import prepare
    a, b = (prepare(tmp_path / str(size), 3, 4, workers=1, size=size) for size in (32, 64))
    index = torch.arange(3)
    assert a.captions == b.captions and b.images(index).shape == (3, 3, 64, 64) and a.pixels.dtype == np.uint8
    assert (F.avg_pool2d(b.images(index), 2) - a.images(index)).abs().mean() < .05


def test_the_shipped_cascade_draws_what_bicubic_interpolation_blurs():
    batch = toybox.sample(4, 31, "object")
    large = upsample(cascade("toybox", 64, 256, "cpu"), batch.images, seed=0, steps=1)
    y = toybox.world.draw(batch.scenes, size=256).images
    assert psnr(large, y, torch.ones_like(y[:, :1])).mean() > psnr(bicubic(batch.images, 4), y, torch.ones_like(y[:, :1])).mean() + 1
    assert paper.edges(large, y)["sharpness"] > paper.edges(bicubic(batch.images, 4), y)["sharpness"] + .1
