"""What Custom Diffusion has learned: exported here, it predicts the same in diffusers, and diffusers' own files are read here."""
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("transformers")

from diffusers import StableDiffusionPipeline
from torch.testing import assert_close

import minidiff
from minidiff import deltas, tokens
from minidiff.deltas import Delta

from . import tiny_pipelines

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "pipeline"
    tiny_pipelines.stable_diffusion(path)
    return path


@pytest.fixture
def ours(folder):
    return minidiff.load(folder, "cpu")


@pytest.fixture
def theirs(folder):
    return StableDiffusionPipeline.from_pretrained(folder)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def changed(unet):
    own = unet.state_dict()
    names = [name for name in own if name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))]
    return Delta({name: own[name] + .3 * draw(*own[name].shape, seed=i) for i, name in enumerate(names)}, {"<new1>": draw(1, 16)})


@torch.no_grad()
def prediction(pipe):
    out = pipe.unet(draw(2, 4, 8, 8), 500, draw(2, 12, 16, seed=5))
    return getattr(out, "sample", out)


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_as_a_lora_the_change_predicts_the_same_there(ours, theirs, tmp_path, layout):
    delta, before = changed(ours.unet), prediction(theirs)
    slider = delta.lora(ours.unet)
    slider.save(tmp_path / "lora.safetensors", layout)
    slider.detach()
    theirs.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    delta.apply(ours)
    assert_close(prediction(theirs), prediction(ours), rtol=0, atol=1e-4)
    assert (prediction(theirs) - before).abs().max() > .01


def test_diffusers_layout_is_read_there_with_the_argument_that_it_needs(ours, theirs, tmp_path):
    delta, before = changed(ours.unet), prediction(theirs)
    deltas.write(tmp_path / "pytorch_custom_diffusion_weights.bin", delta, ours.unet, "diffusers")
    theirs.unet.load_attn_procs(tmp_path, weight_name="pytorch_custom_diffusion_weights.bin", _pipeline=theirs)
    delta.apply(ours)
    assert_close(prediction(theirs), prediction(ours), rtol=0, atol=1e-4)
    assert (prediction(theirs) - before).abs().max() > .01


def test_what_diffusers_saves_is_read_here(ours, theirs, tmp_path):
    delta = changed(ours.unet)
    deltas.write(tmp_path / "a.bin", delta, ours.unet, "diffusers")
    theirs.unet.load_attn_procs(tmp_path, weight_name="a.bin", _pipeline=theirs)
    theirs.unet.save_attn_procs(tmp_path / "saved", safe_serialization=False)
    back = deltas.read(tmp_path / "saved" / "pytorch_custom_diffusion_weights.bin", ours.unet)
    assert back.weights.keys() == delta.weights.keys()
    assert all(torch.equal(back.weights[name], w) for name, w in delta.weights.items())


def test_the_word_means_the_same_there(ours, theirs, tmp_path):
    delta = changed(ours.unet)
    tokens.save(tmp_path / "new1.safetensors", "<new1>", delta.rows["<new1>"])
    theirs.load_textual_inversion(tmp_path, weight_name="new1.safetensors")
    delta.apply(ours)
    with torch.no_grad():
        want = theirs.encode_prompt(["a photo of a <new1> cat"], "cpu", 1, False)[0]
        assert_close(ours.encode_prompts(["a photo of a <new1> cat"]).context, want, rtol=0, atol=1e-5)
