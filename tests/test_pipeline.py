"""minidiff.pipeline, the package's front door and `python -m minidiff`."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import minidiff
from minidiff import images, lora
from minidiff.__main__ import main
from minidiff.checkpoints import CheckpointError, read_config, save_folder, write_json
from minidiff import devices
from minidiff import pipeline, single_file
from minidiff.pipeline import Condition, StableDiffusionXL, TextToImage, load
from minidiff.samplers import ddim_invert, noise, sample
from minidiff.schedule import Schedule
from minidiff.unet import UNet
from minidiff.vae import VAE

torch.set_num_threads(1)          # tiny models: waking a second thread costs more than it brings
GOLDEN = Path(__file__).parent / "golden" / "pipeline-sd1"
OTHER = {"cross_attention_dim": 24}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.stable_diffusion(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def xl_folder(tmp_path_factory):
    return tiny_models.stable_diffusion_xl(tmp_path_factory.mktemp("xl"))


@pytest.fixture
def pipe(folder):
    return load(folder, device="cpu")


@pytest.fixture
def copy(folder, tmp_path):
    """The tiny model again, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_the_loop_gives_the_pictures_of_the_peers():
    config, case = (json.loads((GOLDEN / name).read_text()) for name in ("config.json", "case.json"))
    inputs, outputs = (load_file(GOLDEN / f"{name}.safetensors") for name in ("inputs", "outputs"))
    unet, vae = UNet.from_config(config["unet"]), VAE.from_config(config["vae"])
    for part, module in (("unet", unet), ("vae", vae)):
        module.load_state_dict(load_file(GOLDEN / f"weights.{part}.safetensors"))
    text = SimpleNamespace(config={"hidden_size": 16})
    pipe = TextToImage(None, text, unet, vae, Schedule.from_config(config["scheduler"]), config["unet"]["sample_size"])
    steps, guidance = inputs["num_inference_steps"].item(), inputs["guidance_scale"].item()
    with torch.no_grad():
        predict = pipe.predictor(Condition(inputs["prompt_embeds"]), Condition(inputs["negative_prompt_embeds"]), guidance)
        z = sample(predict, pipe.schedule, inputs["latents"], steps)
        assert torch.equal(pipe.schedule.timesteps(steps), outputs["timesteps"])
        assert_close(z, outputs["final_latents"], atol=case["atol"]["final_latents"], rtol=0)
        assert_close(pipe.decode(z), outputs["images"], atol=case["atol"]["images"], rtol=0)


def test_sdxl_sees_both_texts_the_sizes_and_zeros_for_no_text(xl_folder):
    pipe = load(xl_folder, device="cpu")
    assert pipe.schedule.method == "euler"
    condition, uncond = pipe.conditions(["a red cat", "a blue chair"], None, 2, None, (16, 24))
    first, _ = pipe.text_encoder(pipe.tokenizer(["a red cat"]), skip=1, norm=False)
    second, pooled = pipe.text_encoder_2(pipe.tokenizer_2(["a red cat"]), skip=1, norm=False)
    assert len(condition) == 4 and len(uncond) == 1
    for row in (0, 1):
        assert_close(condition[row].context, torch.cat([first, second], dim=-1))
        assert_close(condition[row].added["text_embeds"], pooled)
    assert condition.added["time_ids"].tolist() == [[16, 24, 0, 0, 16, 24]] * 4 and uncond.added["time_ids"].tolist() == [[16, 24, 0, 0, 16, 24]]
    assert not uncond.context.any() and not uncond.added["text_embeds"].any()
    assert pipe.conditions(["a red cat"], "", 1, None, (16, 16))[1].context.any()          # "" is a text like any other


def test_sdxl_makes_pictures_of_the_size_asked_for(xl_folder):
    pipe = load(xl_folder, device="cpu")
    out = pipe("a red cat", n=2, steps=2, size=(16, 24))
    assert out.shape == (2, 3, 16, 24) and out.std() > 0.01
    assert_close(pipe("a red cat", steps=2, seed=1, size=(16, 24)), out[1:], atol=1e-5, rtol=0)
    assert (pipe("a red cat", steps=2, negative="a blue chair") - pipe("a red cat", steps=2)).abs().max() > 1e-4


def test_a_condition_keeps_its_parts_together():
    c = Condition(torch.arange(6.).reshape(3, 2, 1), {"time_ids": torch.arange(3.)[:, None]})
    for got, rows in [(c[1], [1]), (c[1:], [1, 2]), (c[[2, 0, 2]], [2, 0, 2]), (c.repeat(2), [0, 0, 1, 1, 2, 2]),
                      (Condition.cat(list(c)), [0, 1, 2]), (Condition.cat([c[2], c]), [2, 0, 1, 2])]:
        assert len(got) == len(rows)
        assert_close(got.context, c.context[rows])
        assert_close(got.added["time_ids"], c.added["time_ids"][rows])
    assert len(Condition(None, {"image_embeds": torch.zeros(4, 2)}).repeat(2)) == 8


def test_the_variant_is_taken_when_asked_for(copy):
    for part in ("unet", "vae", "text_encoder"):
        file, = (copy / part).glob("*.safetensors")
        file.rename(file.with_suffix(".fp16.safetensors"))
    assert load(copy, "cpu", variant="fp16").dtype == torch.float32
    with pytest.raises(CheckpointError, match="fp16"):
        load(copy)


def test_the_vae_of_sdxl_is_float32_where_half_precision_overflows(xl_folder, tmp_path):
    xl = Path(shutil.copytree(xl_folder, tmp_path / "xl"))
    edit(xl / "vae" / "config.json", force_upcast=True)
    for dtype, want in [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)]:
        pipe = load(xl, "cpu", dtype)
        assert next(pipe.vae.parameters()).dtype == want and pipe.dtype == dtype
        assert pipe.decode(torch.zeros(1, 4, 8, 8, dtype=dtype)).dtype == torch.float32


def test_pictures_are_in_0_1_and_ordered_prompt_by_prompt(pipe):
    out = pipe(["a red cat", "a blue chair"], n=2, steps=3, seed=5)
    assert out.shape == (4, 3, 16, 16) and out.dtype == torch.float32
    assert 0 <= out.min() and out.max() <= 1 and out.std() > 0.01
    assert_close(out[:2], pipe("a red cat", n=2, steps=3, seed=5), atol=1e-5, rtol=0)
    assert_close(out[2:], pipe("a blue chair", n=2, steps=3, seed=5), atol=1e-5, rtol=0)
    assert (out[0] - out[2]).abs().max() > 1e-4             # the prompt matters


def test_every_prompt_may_have_a_seed_of_its_own(pipe):
    out = pipe(["a red cat", "a red cat"], n=2, steps=3, seed=[5, 9])
    assert_close(out[:2], pipe("a red cat", n=2, steps=3, seed=5), atol=1e-5, rtol=0)
    assert_close(out[2:], pipe("a red cat", n=2, steps=3, seed=9), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="3 seeds for 2 prompts"):
        pipe(["a red cat", "a blue chair"], steps=3, seed=[1, 2, 3])


@pytest.mark.parametrize("which", ["folder", "xl_folder"])
@pytest.mark.parametrize("batch, largest", [(1, 1), (2, 2), (3, 3), (7, 6), (100, 9)])       # whole prompts as far as they fit
def test_pictures_are_drawn_a_few_at_a_time_and_are_the_same(request, which, batch, largest):
    pipe, seen = load(request.getfixturevalue(which), device="cpu"), []
    draw = lambda **how: pipe(["a red cat", "a blue chair", "a red chair"], 3, 2, seed=[5, 9, 40], eta=1.0, method="ddim", **how)
    want = draw()
    pipe.unet.register_forward_hook(lambda unet, args, out: seen.append(len(out) // 2))      # two halves of guidance
    assert_close(draw(batch=batch), want, atol=1e-4, rtol=0)
    assert max(seen) == largest and sum(seen) == 2 * 9
    assert (want[None] - want[:, None]).abs().amax((2, 3, 4))[~torch.eye(9).bool()].min() > 1e-3             # nine different pictures


@pytest.mark.parametrize("method, eta", [("ddim", 0.0), ("ddim", 1.0), ("ddpm", 0.0)])
def test_same_seed_same_picture_at_every_batch_size(pipe, method, eta):
    batch = pipe("a red cat", n=3, steps=3, seed=7, method=method, eta=eta)
    for i in range(3):
        assert_close(batch[i:i + 1], pipe("a red cat", steps=3, seed=7 + i, method=method, eta=eta), atol=1e-5, rtol=0)
    assert (batch[0] - batch[1]).abs().max() > 0.01


def test_a_model_may_say_how_much_fresh_noise_its_steps_add(pipe):
    own = pipe.schedule
    plain, noisy = pipe("a red cat", steps=3, method="ddim"), pipe("a red cat", steps=3, eta=1.0)
    try:
        pipe.schedule = Schedule.from_config({**own.config, "eta": 1.0})
        assert_close(pipe("a red cat", steps=3), noisy, atol=1e-5, rtol=0)
        assert_close(pipe("a red cat", steps=3, eta=0.0), plain, atol=1e-5, rtol=0)
        assert_close(pipe("a red cat", steps=3, method="ddim"), plain, atol=1e-5, rtol=0)      # asked for: as in the paper
    finally:
        pipe.schedule = own
    assert (plain - noisy).abs().max() > 0.01


def test_guidance_in_one_batch_equals_two_calls(pipe):
    context, uncond = pipe.encode_prompts(["a red cat", "a blue chair"]), pipe.encode_prompts([""])
    x, t = noise((2, 4, 8, 8), 0), 500
    e_cond, e_uncond = pipe.unet(x, t, context.context), pipe.unet(x, t, uncond.context.expand(2, -1, -1))
    assert_close(pipe.predictor(context, uncond, 5.0)(x, t), e_uncond + 5 * (e_cond - e_uncond), atol=1e-4, rtol=0)
    predict = pipe.predictor(context, uncond, 5.0)
    assert_close(predict(x, torch.tensor([500, 500])), predict(x, t))


@pytest.mark.parametrize("guidance, batch", [(1.0, 2), (5.0, 4), (0.0, 4)])
def test_guidance_1_runs_one_half_only(pipe, guidance, batch):
    seen = []
    pipe.unet.register_forward_hook(lambda unet, args, out: seen.append(len(out)))
    pipe("a red cat", n=2, steps=2, guidance=guidance)
    assert seen == [batch, batch]


def test_the_text_is_encoded_once_and_its_keys_and_values_too(pipe):
    calls = {"text": 0, "to_k": 0}

    def count(name):
        return lambda *_: calls.update({name: calls[name] + 1})

    pipe.text_encoder.register_forward_hook(count("text"))
    next(iter(pipe.unet.cross_attentions().values())).to_k.register_forward_hook(count("to_k"))
    pipe(["a red cat", "a blue chair"], n=2, steps=4)
    assert calls == {"text": 1, "to_k": 1}


def test_a_negative_prompt_changes_the_picture_only_under_guidance(pipe):
    def run(guidance, negative):
        return pipe("a red cat", steps=2, guidance=guidance, negative=negative)

    assert not torch.equal(run(5.0, "a blue chair"), run(5.0, ""))
    assert torch.equal(run(1.0, "a blue chair"), run(1.0, ""))


def test_encoding_undoes_decoding_up_to_the_factor(pipe):
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mean, logvar = pipe.vae.encode(2 * pictures - 1)
    assert_close(pipe.encode(pictures), mean * 0.18215)
    draws = pipe.encode(pictures[:1].expand(400, -1, -1, -1), generator=0) / 0.18215
    std = (logvar[0] / 2).exp()
    assert ((draws.mean(0) - mean[0]) / std).abs().max() < 5 / 20           # 5 standard errors of 400 draws
    assert_close(draws.std(0) / std, torch.ones_like(std), atol=0.2, rtol=0)
    z = noise((1, 4, 8, 8), 0)
    assert_close(pipe.decode(z), ((pipe.vae.decode(z / 0.18215) + 1) / 2).clamp(0, 1))


def test_inversion_then_sampling_returns_the_latents_of_a_picture(pipe):
    predict = pipe.predictor(pipe.encode_prompts(["a red cat"]))
    x_0 = noise((1, 4, 8, 8), 3)
    x_T = ddim_invert(predict, pipe.schedule, x_0, 20, iterations=5)
    assert (sample(predict, pipe.schedule, x_T, 20) - x_0).norm() < 0.01 * x_0.norm()


def test_a_batch_of_slider_positions_equals_separate_runs(pipe):
    slider = lora.attach(pipe.unet, where="full", generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in slider.parameters():
            p.add_(0.1)
    scales = [-1.0, 0.0, 2.0]
    with slider.at(torch.tensor(scales)):
        context, uncond = pipe.encode_prompts(["a red cat"] * 3), pipe.encode_prompts([""])
        x_T = noise((3, 4, 8, 8), [4, 4, 4])
        together = sample(pipe.predictor(context, uncond, 3.0), pipe.schedule, x_T, 4)
    for i, scale in enumerate(scales):
        with slider.at(scale):
            alone = sample(pipe.predictor(context[:1], uncond, 3.0), pipe.schedule, x_T[:1], 4)
        assert_close(together[i:i + 1], alone, atol=1e-3, rtol=1e-3)
    assert (together[0] - together[2]).abs().max() > 0.01


def test_half_precision_weights_make_nearly_the_same_pictures(folder, pipe):
    half = load(folder, device="cpu", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert (half("a red cat", steps=2) - pipe("a red cat", steps=2)).abs().mean() < 0.1


def test_what_is_loaded_is_frozen(pipe):
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert not part.training and not any(p.requires_grad for p in part.parameters())


def test_the_callback_sees_latents_and_progress_counts(pipe, capsys):
    seen = []
    pipe("a red cat", steps=3, callback=lambda i, t, x: seen.append((i, t, x.shape)), progress=True)
    assert [i for i, t, shape in seen] == [0, 1, 2] and seen[0][2] == (1, 4, 8, 8)
    assert capsys.readouterr().err.endswith("step 3 of 3\n")
    pipe("a red cat", n=3, steps=3, callback=lambda i, t, x: seen.append((i, t, x.shape)), progress=True, batch=2)
    assert [(i, len(shape)) for i, t, shape in seen[3:]] == [(i, 4) for i in (0, 1, 2)] * 2 and seen[-1][2][0] == 1
    shown = capsys.readouterr().err
    assert shown.endswith("step 6 of 6\n") and shown.count("\n") == 1


@pytest.mark.parametrize("call", [dict(prompts=[]), dict(prompts="a", n=0), dict(prompts="a", steps=0),
                                  dict(prompts="a", steps=5000), dict(prompts="a", method="heun"),
                                  dict(prompts="a", size=15), dict(prompts="a", size=(16, 0)), dict(prompts="a", size=(16,)),
                                  dict(prompts="a", batch=0)])
def test_impossible_requests_are_refused(pipe, call):
    with pytest.raises(ValueError, match="expected"):
        pipe(**call)


def test_latents_that_are_not_finite_are_reported(pipe):
    pipe.unet.conv_out.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite after 2 steps"):
        pipe("a red cat", steps=2)


def test_prompts_and_lines_are_read_from_files(tmp_path):
    (tmp_path / "p.json").write_text('["a <new1> cat", "ein M\u00e4dchen"]', encoding="utf-8")
    (tmp_path / "l.txt").write_text("\n  a red cat \n\n\t\na blue chair", encoding="utf-8")
    assert pipeline.read_prompts(tmp_path / "p.json") == ["a <new1> cat", "ein M\u00e4dchen"]
    assert pipeline.read_lines(tmp_path / "l.txt", "captions") == ["a red cat", "a blue chair"]


@pytest.mark.parametrize("text, message", [('{"a": 1}', "must hold a list of prompts"), ("[]", "must hold a list of prompts"),
                                           ("[1]", "must hold a list of prompts"), ("not json", "cannot read the prompts"),
                                           (b"[\xff]", "cannot read the prompts"), (None, "cannot read the prompts")])
def test_prompts_must_be_a_list_of_texts(tmp_path, text, message):
    if text is not None:
        (tmp_path / "p.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"{message}.*p.json|p.json {message}") as error:
        pipeline.read_prompts(str(tmp_path / "p.json"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe a cat"])
def test_lines_that_cannot_be_read_say_what_they_should_have_been(tmp_path, content):
    if content:
        (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises(ValueError, match="cannot read the captions .*l.txt: "):
        pipeline.read_lines(tmp_path / "l.txt", "captions")


SINGLE = Path(__file__).parent / "golden"


@pytest.mark.parametrize("family, kind", [("sd1", TextToImage), ("sd2", TextToImage), ("sdxl", StableDiffusionXL)])
@torch.no_grad()
def test_a_single_file_is_a_whole_model(family, kind, monkeypatch):
    """The tiny golden files have no words: their ids stand in for a tokenizer's."""
    case = SINGLE / f"singlefile-{family}"
    config, inputs, outputs = (json.loads((case / "config.json").read_text()),
                               *(load_file(case / f"{name}.safetensors") for name in ("inputs", "outputs")))
    ids = [inputs[name] for name in sorted(inputs) if "ids" in name and name != "time_ids"]
    original = single_file.read
    monkeypatch.setattr(single_file, "read", lambda path, **how: original(path, config=config, prediction_type="epsilon"))
    monkeypatch.setattr(pipeline, "tokenizers_for", lambda file, source: [lambda texts, i=i: i for i in ids])
    pipe = load(case / "model.safetensors", device="cpu")
    assert type(pipe) is kind
    text = pipe.encode_prompts(["", ""])
    assert_close(text.context, outputs["encoder_hidden_states"], atol=5e-5, rtol=0)
    added = {**text.added, "time_ids": inputs["time_ids"]} if family == "sdxl" else {}
    assert_close(pipe.unet(inputs["sample"], inputs["timestep"], text.context, added), outputs["sample"], atol=2e-4, rtol=0)


def test_a_single_file_needs_clips_vocabulary(folder, tmp_path):
    file = SimpleNamespace(family="sdxl", path=tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="holds no tokenizer.*tokenizer=..."):
        pipeline.tokenizers_for(file)
    with pytest.raises(CheckpointError, match="nowhere"):
        pipeline.tokenizers_for(file, tmp_path / "nowhere")
    ends, zeros = (list(t(["a"])[0]) for t in pipeline.tokenizers_for(file, folder / "tokenizer"))
    assert ends[-1] == ends[2] and zeros[-1] == 0                          # SDXL: the first pads with the end token, the second with "!"
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    file.family = "sd1"
    tokenizer, = pipeline.tokenizers_for(file)                             # found beside the file
    assert tokenizer(["a"])[0].tolist() == ends


def edit(path, **changes):
    write_json(path, {**read_config(path.parent, path.name), **changes})


def drop(path, key):
    write_json(path, {k: v for k, v in read_config(path.parent, path.name).items() if k != key})


@pytest.mark.parametrize("damage, message", [
    (lambda d: (d / "model_index.json").unlink(), "no model_index.json"),
    (lambda d: drop(d / "model_index.json", "vae"), "StableDiffusionPipeline without vae"),
    (lambda d: edit(d / "model_index.json", _class_name="StableDiffusionXLPipeline", text_encoder_2=["t", "C"]),
     "StableDiffusionXLPipeline without tokenizer_2"),
    (lambda d: shutil.rmtree(d / "unet"), "config.json"),
    (lambda d: (d / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99), "not a safetensors file"),
    (lambda d: edit(d / "vae" / "config.json", latent_channels=8), "does not fit VAE"),
    (lambda d: drop(d / "unet" / "config.json", "sample_size"), "sample_size of the UNet is None"),
    (lambda d: shutil.rmtree(d / "scheduler"), "scheduler_config.json"),
    (lambda d: save_folder(UNet.from_config(tiny_models.UNET | OTHER), tiny_models.UNET | OTHER, d / "unet"), "width of the text is 24 for the UNet, 16"),
])
def test_a_damaged_model_is_a_checkpoint_error_that_says_what_is_wrong(copy, damage, message):
    damage(copy)
    with pytest.raises(CheckpointError, match=message):
        load(copy)


def test_a_path_that_is_no_folder_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match="no folder .*none"):
        load(tmp_path / "none")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="model.safetensors is not a safetensors file"):
        load(tmp_path / "model.safetensors")


def test_the_shipped_model_is_looked_for_inside_and_beside_the_package(folder, tmp_path, monkeypatch):
    package = tmp_path / "site" / "minidiff"
    monkeypatch.setattr("minidiff.checkpoints.__file__", str(package / "checkpoints.py"))
    with pytest.raises(CheckpointError, match="minidiff/weights/toybox and no folder .*site/weights/toybox"):
        load()
    for place in (tmp_path / "site" / "weights", package / "weights"):
        shutil.copytree(folder, place / "toybox")
        assert load(device="cpu").sample_size == 8
        shutil.rmtree(place)


def test_the_device_is_a_gpu_if_there_is_one():
    assert devices.pick().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert devices.pick("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="not one that torch knows"):
        devices.pick("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no GPU"):
            devices.pick("cuda")


# The package and the command line


def test_every_public_name_is_there():
    for name in minidiff.HOMES:
        assert getattr(minidiff, name) is getattr(getattr(minidiff, minidiff.HOMES[name]), name)
    for name in minidiff.MODULES:
        assert getattr(minidiff, name).__name__ == f"minidiff.{name}"
    assert set(minidiff.__all__) <= set(dir(minidiff))
    with pytest.raises(AttributeError, match="no attribute 'Transformer'"):
        minidiff.Transformer


def test_importing_minidiff_imports_nothing_else():
    code = "import sys, minidiff; print([m for m in ('torch', 'PIL', 'einops') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("n", [1, 3])
def test_the_command_writes_a_picture_and_says_where(folder, tmp_path, capsys, n):
    out = tmp_path / "deep" / "cat.png"
    where = ["--model", str(folder), "--out", str(out), "--device", "cpu"]
    assert main(["a red cat", "--n", str(n), "--steps", "2", *where]) == 0
    assert str(out) in capsys.readouterr().out
    if n == 1:
        assert_close(images.load(out), load(folder, "cpu")("a red cat", steps=2)[0], atol=0.5 / 255 + 1e-6, rtol=0)
    assert min(images.load(out).shape[1:]) >= 16 * (1 if n == 1 else 2)


def test_the_command_takes_size_method_and_type(xl_folder, tmp_path):
    out = tmp_path / "cat.png"
    use = ["--model", str(xl_folder), "--out", str(out), "--device", "cpu", "--steps", "2"]
    assert main(["a red cat", *use, "--size", "16", "24", "--method", "ddim", "--dtype", "bfloat16"]) == 0
    want = load(xl_folder, "cpu", torch.bfloat16)("a red cat", steps=2, method="ddim", size=(16, 24))[0]
    assert_close(images.load(out), want, atol=0.5 / 255 + 1e-6, rtol=0)


@pytest.mark.parametrize("arguments, message", [
    (["--size", "15", "16"], "multiples of 2"), (["--method", "heun"], "heun"),
    (["--model", "/no/such/model"], "no model '/no/such/model'"),
    (["--steps", "0"], "0 sampling steps"), (["--n", "0"], "0 pictures"),
    (["--out", "x.docx"], "docx"), (["--out", "/proc/nothing/x.png"], ""), (["--device", "toaster"], "toaster"),
    (["--guidance", "nan"], "not finite"), (["--seed", "-1"], "seeds"),
])
def test_bad_input_is_one_sentence_on_stderr_and_status_2(folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["a red cat", "--model", str(folder), "--device", "cpu", "--steps", "1", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("minidiff: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert not list(tmp_path.iterdir())


def test_an_unknown_option_is_status_2_too():
    with pytest.raises(SystemExit) as stop:
        main(["a cat", "--nonsense"])
    assert stop.value.code == 2


def test_the_command_runs_as_a_module_from_anywhere(folder, tmp_path):
    options = ["--steps", "1", "--model", str(folder), "--device", "cpu"]
    out = subprocess.run([sys.executable, "-m", "minidiff", "a red cat", *options],
                         capture_output=True, text=True, cwd=tmp_path,
                         env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"})
    assert (out.returncode, out.stderr) == (0, "")
    assert (tmp_path / "picture.png").is_file()
