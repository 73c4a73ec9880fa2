"""minidiff.kandinsky: text -> image embedding -> picture. Golden outputs: diffusers' pipelines, tolerances measured there."""
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from minidiff import kandinsky, load, samplers
from minidiff.checkpoints import CheckpointError, load_strict, read_config, save_folder, write_json
from minidiff.clip import CLIPImage, CLIPText
from minidiff.movq import MoVQ
from minidiff.pipeline import Condition
from minidiff.prior import Prior
from minidiff.samplers import sample
from minidiff.schedule import Schedule
from minidiff.tokenizer import Tokenizer
from minidiff.unet import UNet

GOLDEN = Path(__file__).parent / "golden" / "pipeline-kandinsky22"
CONFIG = json.loads((GOLDEN / "config.json").read_text())


def test_the_decoder_gives_the_pictures_of_the_peer(monkeypatch):
    inputs, outputs = (load_file(GOLDEN / f"{name}.safetensors") for name in ("inputs", "outputs"))
    atol = json.loads((GOLDEN / "case.json").read_text())["atol"]
    unet, movq = UNet.from_config(CONFIG["unet"]), MoVQ.from_config(CONFIG["movq"])
    for part, module in (("unet", unet), ("movq", movq)):
        load_strict(module, load_file(GOLDEN / f"weights.{part}.safetensors"), part)
    prior = Prior.from_config(CONFIG["prior"])
    pipe = kandinsky.Kandinsky(None, None, None, prior, None, unet, movq, Schedule.from_config(CONFIG["scheduler"]), 8)

    draws = iter(inputs["noise"])                 # what the peer drew, in place of fresh noise
    monkeypatch.setattr(samplers, "noise", lambda *args: next(draws))
    condition, uncond = (Condition(None, {"image_embeds": e}) for e in (outputs["image_embeds"], inputs["negative_image_embeds"]))
    with torch.no_grad():
        predict = pipe.predictor(condition, uncond, inputs["guidance_scale"].item())
        steps = len(outputs["timesteps"])
        assert torch.equal(pipe.schedule.timesteps(steps), outputs["timesteps"])
        z = sample(predict, pipe.schedule, inputs["latents"], steps, generator=0)
        assert_close(z, outputs["final_latents"], rtol=0, atol=atol["final_latents"])
        assert_close(pipe.vae.decode(z), outputs["images"], rtol=0, atol=atol["images"])
        assert_close(pipe.decode(z), (outputs["images"] / 2 + 0.5).clamp(0, 1), rtol=0, atol=atol["images"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny prior and a tiny decoder with random weights, in diffusers' layout."""
    torch.manual_seed(0)
    prior, decoder = (tmp_path_factory.mktemp(name) for name in ("prior", "decoder"))
    tokenizer = Tokenizer.train(["a red cat", "a blue chair"], length=6)
    tokenizer.save(prior / "tokenizer")
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "projection_dim": 16,
            "num_attention_heads": 2, "max_position_embeddings": 6, "eos_token_id": tokenizer.eos, "hidden_act": "gelu",
            "architectures": ["CLIPTextModelWithProjection"]}
    image = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
             "patch_size": 4, "projection_dim": 16, "architectures": ["CLIPVisionModelWithProjection"]}
    save_folder(CLIPText(text).init_weights(), text, prior / "text_encoder", "model.safetensors", torch.float32)
    save_folder(CLIPImage(image).init_weights(), image, prior / "image_encoder", "model.safetensors", torch.float32)
    for part, model, folder in (("prior", Prior.from_config(CONFIG["prior"]), prior), ("unet", UNet.from_config(CONFIG["unet"]), decoder),
                                ("movq", MoVQ.from_config(CONFIG["movq"]), decoder)):
        weights = load_file(GOLDEN / f"weights.{part}.safetensors")
        load_strict(model, weights, part)
        save_folder(model, CONFIG[part], folder / part, dtype=torch.float32)
    for folder, name in ((prior, "prior_scheduler"), (decoder, "scheduler")):
        write_json(folder / "scheduler" / "scheduler_config.json", CONFIG[name])
    index = lambda parts: {part: ["library", "Class"] for part in parts}
    write_json(prior / "model_index.json", {"_class_name": "KandinskyV22PriorPipeline", **index(kandinsky.PRIOR)})
    write_json(decoder / "model_index.json", {"_class_name": "KandinskyV22Pipeline", **index(kandinsky.DECODER)})
    return prior, decoder


@pytest.fixture
def pipe(folders):
    prior, decoder = folders
    return load(decoder, device="cpu", prior=prior)


def test_pictures_depend_on_prompt_seed_and_negative_but_not_on_the_batch(pipe):
    out = pipe(["a red cat", "a blue chair"], n=2, steps=2, seed=5)
    assert out.shape == (4, 3, 8, 8) and 0 <= out.min() and out.max() <= 1
    assert_close(pipe("a blue chair", steps=2, seed=6)[0], out[3], atol=1e-4, rtol=0)
    assert_close(pipe(["a red cat", "a blue chair"], n=2, steps=2, seed=5, batch=1), out, atol=1e-4, rtol=0)
    for other in (out[1], out[2], pipe("a red cat", steps=2, seed=5, negative="a blue chair")[0]):
        assert (other - out[0]).abs().max() > 1e-3


def test_no_text_is_the_embedding_of_mean_grey(pipe):
    condition, uncond = pipe.conditions(["a red cat"], None, 1, [0], None)
    _, grey = pipe.image_encoder(torch.zeros(1, 3, 8, 8))
    assert_close(uncond.added["image_embeds"], grey)
    assert condition.added["image_embeds"].shape == (1, 16)


def test_padding_does_not_reach_the_prior(pipe, monkeypatch):
    seen = []
    monkeypatch.setattr(pipe.prior, "forward", lambda z, t, pooled, hidden, mask: seen.append(mask) or z)
    pipe.encode_prompts(["a red cat"])
    ids = pipe.tokenizer(["", "a red cat"])                               # batch order: negative, positive
    end = pipe.tokenizer.eos
    assert seen[0].tolist() == [[end not in row[:i].tolist() for i in range(6)] for row in ids]


def test_a_combined_folder_needs_no_second_path(folders, pipe, tmp_path):
    prior, decoder = folders
    both = Path(shutil.copytree(decoder, tmp_path / "both"))
    for part in kandinsky.PRIOR:
        shutil.copytree(prior / part, both / f"prior_{part}")
    write_json(both / "model_index.json", read_config(decoder, "model_index.json") | {f"prior_{part}": ["l", "C"] for part in kandinsky.PRIOR})
    assert_close(load(both, "cpu")("a red cat", steps=2), pipe("a red cat", steps=2))


def test_a_decoder_without_its_prior_is_refused(folders):
    prior, decoder = folders
    with pytest.raises(CheckpointError, match="needs a prior"):
        load(decoder)
    with pytest.raises(CheckpointError, match="without prior, image_encoder, text_encoder, tokenizer"):
        load(decoder, prior=decoder)
    with pytest.raises(CheckpointError, match="KandinskyV22PriorPipeline.*give the decoder"):
        load(prior)
