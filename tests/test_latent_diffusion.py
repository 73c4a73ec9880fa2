"""papers/latent_diffusion.py: its losses, and a tiny run of every stage from pictures to a model that loads."""
import json
import re
from types import SimpleNamespace

import latent_diffusion as paper
import pytest
import torch
from torch.testing import assert_close

import minidiff
from minidiff import toybox
from minidiff.schedule import Schedule
from minidiff.vae import VAE

TINY = ["--pictures", "40", "--batch", "4", "--device", "cpu"]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(paper, "VAE_CONFIG", paper.VAE_CONFIG | dict(block_out_channels=(6, 6), latent_channels=8))
    monkeypatch.setattr(paper, "UNET_CONFIG", paper.UNET_CONFIG | dict(block_out_channels=(10, 20), attention_head_dim=2, cross_attention_dim=16))
    monkeypatch.setattr(paper, "TEXT_CONFIG", paper.TEXT_CONFIG | dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1))


def train(out, stage, *more):
    paper.main(["train", stage, "--out", str(out), *TINY, *more])


def weights(folder):
    return minidiff.checkpoints.read_folder(folder)


# Losses


def test_kl_is_zero_for_the_standard_normal_and_matches_torch_elsewhere():
    assert paper.kl_loss(torch.zeros(3), torch.zeros(3)) == 0
    mean, logvar = torch.tensor([.3, -2., 1.]), torch.tensor([-1., .5, 2.])
    normal = torch.distributions.Normal
    want = torch.distributions.kl_divergence(normal(mean, (logvar / 2).exp()), normal(0., 1.)).mean()
    assert_close(paper.kl_loss(mean, logvar), want)


def test_reconstruction_loss_is_zero_only_for_the_picture_itself_and_sees_shifted_edges():
    x = torch.rand(2, 3, 8, 8)
    assert paper.reconstruction_loss(x, x) == 0
    flat = x + 0.1                                             # no edge changes
    noisy = x + 0.1 * (torch.rand(x.shape) < .5).float() * 2 - 0.1   # same mean size of error, but rough
    assert paper.reconstruction_loss(noisy, x) > 1.2 * paper.reconstruction_loss(flat, x) > 0


def test_the_loss_of_equation_3_is_the_weighted_squared_error_per_picture():
    eps, eps_hat = torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 2, 2)
    eps_hat[1] = 3.0
    assert paper.ldm_loss(eps_hat, eps, torch.tensor([1., 1.])) == 4.5
    assert paper.ldm_loss(eps_hat, eps, torch.tensor([1., .5])) == 2.25


def test_min_snr_is_1_on_noisy_latents_and_falls_on_clean_ones():
    alpha_bar = Schedule().alpha_bar
    w = paper.min_snr_weight(alpha_bar, 5.0)
    snr = alpha_bar / (1 - alpha_bar)
    assert_close(w[snr < 5], torch.ones_like(w[snr < 5]))
    assert_close((w * snr)[snr > 5], torch.full_like(w[snr > 5], 5.0))
    assert torch.equal(paper.min_snr_weight(alpha_bar, 0), torch.ones_like(alpha_bar))


# Every stage, tiny


def test_every_stage_runs_and_what_it_writes_is_a_model(tiny, tmp_path):
    train(tmp_path, "autoencoder", "--steps", "2")
    before = weights(tmp_path / "vae")
    train(tmp_path, "unet", "--steps", "2")
    pipe = minidiff.load(tmp_path, "cpu")
    assert pipe("a red cat", steps=2).shape == (1, 3, 64, 64)
    z = pipe.encode(toybox.sample(20, 3).images)
    assert 0.3 < z.std() < 3                                   # the scaling factor brings latents near unit variance
    train(tmp_path, "decoder", "--steps", "2")
    after = weights(tmp_path / "vae")
    moved = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert moved <= {"decoder", "post_quant_conv"} and "decoder" in moved


@pytest.mark.parametrize("stage", ["autoencoder", "unet"])
def test_a_run_that_was_stopped_ends_where_an_uninterrupted_one_does(tiny, tmp_path, stage):
    results = []
    for name, pieces in (("whole", [4]), ("parts", [2, 4])):
        if stage == "unet":
            train(tmp_path / name, "autoencoder", "--steps", "1")
        for steps in pieces:
            monkey_steps = ["--steps", "4"] if steps == 4 else ["--steps", "4", "--minutes", "1000"]
            if steps == 2:
                stop_after(2, lambda: train(tmp_path / name, stage, *monkey_steps))
            else:
                train(tmp_path / name, stage, *monkey_steps)
        results.append(weights(tmp_path / name / ("vae" if stage == "autoencoder" else "unet")))
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


def test_training_goes_on_from_the_weights_of_another_model(tiny, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for stage in ("autoencoder", "unet"):
        train(first, stage, "--steps", "2")
        train(second, stage, "--steps", "1", "--lr", "1e-9", "--seed", "7", "--init", str(first))      # other pictures, and no step to speak of
    for part in ("vae", "unet", "text_encoder"):
        before, after = weights(first / part), weights(second / part)
        assert all(torch.allclose(before[k].float(), after[k].float(), atol=2e-3) for k in before), part
    assert (first / "tokenizer" / "vocab.json").read_text() == (second / "tokenizer" / "vocab.json").read_text()


def stop_after(n, run):
    """Press Ctrl-C, so to speak, when n steps are done."""
    original = paper.Run.update

    def update(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.stopped = self.stopped or self.step == n
    paper.Run.update = update
    try:
        with pytest.raises(SystemExit) as stop:
            run()
        assert stop.value.code == 130
    finally:
        paper.Run.update = original


# Measuring


ROWS = {"autoencoder: psnr", "object: member", "a hand with five fingers: fingers", "unseen combination: both", "unseen combination: both, renders",
        "Frechet distance: renders", "Frechet distance: reconstructions", "Frechet distance: samples", "Frechet distance: samples / reconstructions"}


@pytest.fixture
def ideal(monkeypatch):
    """A model whose samples are renders, of its autoencoder's blurred pictures; `ideal.drawn` counts the captions it was asked for."""
    pipe = minidiff.load("toybox", "cpu")
    scenes = {}                                                # what a caption was made of
    for name in ("fresh_captions", "five_fingers", "unseen"):
        def remember(*args, make=getattr(paper, name)):
            made, captions = make(*args)
            scenes.update(zip(captions, made))
            return made, captions
        monkeypatch.setattr(paper, name, remember)

    def draw(pipe, captions, first, args):
        draw.captions += captions
        known = all(c in scenes for c in captions)
        return toybox.world.draw([scenes[c] for c in captions]).images if known else toybox.sample(len(captions), 1).images
    draw.captions = []
    monkeypatch.setattr(paper, "drawn", draw)
    monkeypatch.setattr(minidiff, "load", lambda *args: pipe)
    return draw


EVAL = ["eval", "--pictures", "10", "--frechet", "4", "--repeats", "1", "--sampling", "1"]


def test_the_table_has_every_row_and_renders_pass_it(ideal, tmp_path):
    paper.main([*EVAL, "--out", str(tmp_path)])
    scores, = json.loads((tmp_path / "table.json").read_text())
    assert ROWS <= set(scores) and all(f"| {name} |" in (tmp_path / "table.md").read_text() for name in ROWS)
    assert min(scores[k] for k in ("portrait: is a face", "background", "a hand with five fingers: fingers")) > .8
    assert scores["unseen combination: both"] == scores["unseen combination: both, renders"] > .5
    ratio = scores["Frechet distance: samples"] / scores["Frechet distance: reconstructions"]
    assert scores["Frechet distance: samples / reconstructions"] == pytest.approx(ratio)
    assert "a hand with five fingers" in ideal.captions and any(c.startswith("a purple dog") for c in ideal.captions)
    assert {path.name for path in tmp_path.glob("*.png")} == {f"{k}_1.png" for k in ("samples", "reconstructions", "five_fingers", "unseen")}


def test_an_evaluation_that_was_stopped_draws_only_the_rest_and_other_weights_or_settings_anew(monkeypatch, tmp_path):
    pipe = SimpleNamespace(**{name: torch.nn.Linear(2, 2) for name in ("text_encoder", "unet", "vae")}, schedule=Schedule())
    asked, stop_at = [], [1]

    def draw(pipe, captions, first, args):
        if len(asked) == stop_at[0]:
            raise KeyboardInterrupt
        asked.append(first)
        return torch.full((len(captions), 3, 2, 2), first % 101 / 255)
    monkeypatch.setattr(paper, "drawn", draw)
    args, captions = SimpleNamespace(out=tmp_path, sampling=2, guidance=5.0), [f"a cat {i}" for i in range(70)]
    kept = lambda seed=3: paper.kept(pipe, captions, seed, args, part=32)
    with pytest.raises(KeyboardInterrupt):
        kept()
    stop_at[0] = None
    pictures = kept()
    assert asked == [30_000, 30_032, 30_064]
    assert_close(pictures[:, 0, 0, 0] * 255, torch.tensor([30_000. % 101] * 32 + [30_032. % 101] * 32 + [30_064. % 101] * 6))
    for change in (lambda: kept(4), lambda: setattr(args, "guidance", 2.0), lambda: setattr(args, "sampling", 3),
                   lambda: captions.insert(0, "a dog"), lambda: pipe.vae.bias.data.add_(1), lambda: setattr(pipe, "schedule", Schedule(timestep_spacing="trailing"))):
        asked.clear()
        change()
        kept()
        assert len(asked) == 3
        kept()
        assert len(asked) == 3


def test_distances_are_to_fresh_renders_and_grow_with_what_is_wrong():
    x = toybox.sample(60, 41).images
    found = paper.distances(42, renders=x, grey=x.mean(1, keepdim=True).expand(-1, 3, -1, -1), same=toybox.sample(60, 42).images)
    assert abs(found["same"]) < 1e-2 * found["renders"] and found["grey"] > 1.2 * found["renders"]


# The script


def test_the_demonstration_draws_and_scores(tmp_path, capsys):
    paper.main(["--sampling", "2", "--out", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"portrait: is a face", "seconds", "device", "steps"} <= set(metrics)
    assert (tmp_path / "figure.png").is_file() and "figure.png" in capsys.readouterr().out


def test_the_profile_counts_the_arithmetic_and_shares_out_the_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(paper, "matrix_peak", lambda device: 1e12)
    paper.main(["profile", "--steps", "3", "--batch", "2", "--device", "cpu", "--out", str(tmp_path)])
    first, *shares = capsys.readouterr().out.strip().splitlines()
    flops = float(re.search(r"([\d.]+) GFLOP a sample", first)[1])
    assert 1 < flops < 10 and "of the 1000 GFLOP/s" in first                        # a handful of GFLOP: three passes
    assert sum(float(line.split()[0]) for line in shares) == pytest.approx(100, abs=.5)


@pytest.mark.parametrize("arguments, message", [
    (["--model", "/nowhere"], "no model"), (["--device", "toaster"], "toaster"),
    (["train", "unet", *TINY, "--steps", "1"], "config.json"),          # no autoencoder there yet
    (["train", "unet", "--kinds", "hand=.5,foot=.5"], "foot"), (["train", "unet", "--kinds", "hand"], "'hand': expected KIND=SHARE"),
    (["eval", "--pictures", "0"], "--pictures 0"), (["eval", "--frechet", "1"], "--frechet 1"),
    (["train", "unet", "--kinds", "hand=-1,pair=2"], "above 0"),
    (["train", "autoencoder", "--batch", "0"], "--batch is 0, expected at least 1"), (["train", "autoencoder", "--pictures", "0"], "--pictures is 0"),
    (["train", "autoencoder", "--steps", "0"], "--steps is 0"), (["train", "autoencoder", "--seed", "-1"], "--seed is -1"),
    (["train", "autoencoder", "--minutes", "0"], "--minutes is 0, expected a number above 0"), (["train", "autoencoder", "--lr", "-1"], "--lr is -1"),
    (["train", "autoencoder", "--lr", "nan"], "--lr is nan"), (["train", "unet", "--gamma", "-3"], "--gamma -3"),
    (["train", "unet", "--drop", "7"], "--drop 7"), (["train", "autoencoder", "--kl", "-1"], "--kl -1"),
    (["train", "autoencoder", "--init", "/nowhere"], "no folder /nowhere"), (["train", "unet", "--init", "/nowhere"], "no folder /nowhere"),
    (["train", "autoencoder", "--init", "toybox"], "toybox, vae"),      # larger than the tiny one
    (["train", "unet", "--init", "toybox"], "toybox, unet"), (["train", "decoder", "--init", "toybox"], "expected no --init"),
    (["profile", "--steps", "2"], "--steps is 2, expected at least 3"), (["profile", "--batch", "0"], "--batch is 0"),
])
def test_bad_input_is_one_sentence_and_status_2_before_anything_is_drawn(tiny, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(paper, "prepare", lambda *args, **how: pytest.fail("pictures are drawn"))
    with pytest.raises(SystemExit) as stop:
        paper.main([*arguments, "--out", str(tmp_path)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and "Traceback" not in error


def test_a_checkpoint_of_another_run_is_refused(tiny, tmp_path, capsys):
    train(tmp_path, "autoencoder", "--steps", "1")
    (tmp_path / "vae" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(SystemExit) as stop:
        train(tmp_path, "autoencoder", "--steps", "2")
    assert stop.value.code == 2 and "checkpoint.pt" in capsys.readouterr().err


def test_the_autoencoder_shipped_reads_back_its_pictures():
    pipe = minidiff.load("toybox", "cpu")
    x = toybox.sample(16, 31).images
    assert isinstance(pipe.vae, VAE)
    assert -10 * (pipe.decode(pipe.encode(x)) - x).square().mean().log10() > 25
