"""Low-rank adapters: a slider saved by one library gives the same pictures in the other."""
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("transformers")

from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import minidiff
from minidiff import lora
from minidiff.pipeline import Condition
from minidiff.samplers import sample

from . import tiny_pipelines

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:.*(is also for|Already found a .peft_config)")]
torch.set_num_threads(1)
SCALES = (-2.0, 0.5, 1.5)
LAYOUTS = ("kohya", "diffusers")
STEPS, GUIDANCE = 2, 2.0
# How large the random adapters must be to change the pictures of these small UNets about as much as a slider would.
SIZE = {"noxattn": 0.3, "full": 0.3, "xattn": 0.8}


def pair(tmp_path_factory, make):
    """The same tiny pipeline twice: ours, diffusers'."""
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    theirs = make(folder)
    return minidiff.load(folder, device="cpu"), theirs


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return pair(tmp_path_factory, tiny_pipelines.stable_diffusion)


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    return pair(tmp_path_factory, tiny_pipelines.stable_diffusion_xl)


@pytest.fixture(autouse=True)
def clean(request):
    """The pipelines are made once; whatever a test put on them comes off again."""
    yield
    for name in {"sd1", "xl"} & {*request.fixturenames}:
        ours, theirs = request.getfixturevalue(name)
        theirs.unload_lora_weights()
        for module in parts(ours).values():
            for layer in lora.adaptable(module).values():
                layer._forward_hooks.clear()


def parts(pipe):
    return {name: part for name, part in vars(pipe).items() if isinstance(part, torch.nn.Module)}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given(pipe):
    """Text states with a prompt and without, (2, L, D), and what SDXL is told besides."""
    added = {}
    if pipe.unet.config["addition_embed_type"] == "text_time":
        added = {"text_embeds": draw(2, 24, seed=5), "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]]).repeat(2, 1)}
    return draw(2, tiny_pipelines.LENGTH, pipe.unet.config["cross_attention_dim"]), added


@torch.no_grad()
def our_pictures(pipe):
    """(1, 3, H, W) in [0, 1], from the same text states and latents as `their_pictures`."""
    states, added = given(pipe)
    condition, uncond = (Condition(states[i:i + 1], {k: t[i:i + 1] for k, t in added.items()}) for i in (0, 1))
    predict = pipe.predictor(condition, uncond, GUIDANCE)
    return pipe.decode(sample(predict, pipe.schedule, draw(1, 4, 8, 8), STEPS, "ddim"))


def their_pictures(pipe):
    states, added = given(pipe)
    pooled = {} if not added else {"pooled_prompt_embeds": added["text_embeds"][:1],
                                   "negative_pooled_prompt_embeds": added["text_embeds"][1:]}
    return pipe(prompt_embeds=states[:1], negative_prompt_embeds=states[1:], latents=draw(1, 4, 8, 8), **pooled,
                guidance_scale=GUIDANCE, num_inference_steps=STEPS, output_type="pt").images


def same_pictures(ours, theirs):
    a, b = our_pictures(ours), their_pictures(theirs)
    assert_close(a, b, atol=1e-3, rtol=0)
    return a


def slider(module, seed=0, size=0.3, **options):
    """An adapter that has learned something."""
    adapter, g = lora.attach(module, **options), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(size * torch.randn(p.shape, generator=g))
    return adapter


def load_into(theirs, path, name="slider"):
    theirs.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)


@pytest.mark.parametrize("model, where, layout", [
    *(("sd1", where, layout) for where in SIZE for layout in LAYOUTS),
    *(("xl", where, "kohya") for where in SIZE), ("xl", "full", "diffusers")])
def test_our_slider_gives_the_same_pictures_in_diffusers_at_every_scale(model, where, layout, request, tmp_path):
    ours, theirs = request.getfixturevalue(model)
    base = our_pictures(ours)
    adapter = slider(ours.unet, size=SIZE[where], where=where, rank=3, alpha=1.0)
    adapter.save(tmp_path / "slider.safetensors", layout)
    load_into(theirs, tmp_path / "slider.safetensors")
    for scale in SCALES:
        adapter.scale = scale
        theirs.set_adapters("slider", scale)
        assert (same_pictures(ours, theirs) - base).abs().max() > 0.01


@pytest.mark.parametrize("model", ["sd1", "xl"])
def test_two_sliders_at_once_give_the_same_pictures_in_diffusers(model, request, tmp_path):
    ours, theirs = request.getfixturevalue(model)
    a, b = slider(ours.unet, 1, rank=2, alpha=1.0), slider(ours.unet, 2, size=0.4, rank=4, alpha=4.0, where="xattn")
    a.save(tmp_path / "a.safetensors", "kohya")
    b.save(tmp_path / "b.safetensors", "diffusers")
    for name in "ab":
        load_into(theirs, tmp_path / f"{name}.safetensors", name)
    for a.scale, b.scale in [(1.5, -2.0), (-0.5, 0.5)]:
        theirs.set_adapters(["a", "b"], [a.scale, b.scale])
        same_pictures(ours, theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layer_of_an_sdxl_unet_is_read_by_diffusers(xl, layout, tmp_path):
    ours, theirs = xl
    adapter = slider(ours.unet, size=0.2, where=lambda name: True, rank=2)
    adapter.save(tmp_path / "slider.safetensors", layout)
    load_into(theirs, tmp_path / "slider.safetensors")
    assert len(get_peft_model_state_dict(theirs.unet, adapter_name="slider")) == 2 * len(adapter.names)
    same_pictures(ours, theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model, encoders", [("sd1", {"text_encoder": "text_encoder"}),
                                             ("xl", {"text_encoder_1": "text_encoder", "text_encoder_2": "text_encoder_2"})])
def test_one_file_for_text_encoders_and_unet_means_the_same_in_diffusers(model, encoders, layout, request, tmp_path):
    ours, theirs = request.getfixturevalue(model)
    path, base, prompt = tmp_path / "all.safetensors", {}, ["a red cat on a chair"]
    adapters = {"unet": slider(ours.unet)}
    for i, (component, part) in enumerate(encoders.items()):
        base[part] = getattr(ours, part)(ours.tokenizer(prompt))[0]
        adapters[component] = slider(getattr(ours, part), i, where=lambda name: "self_attn" in name or "mlp" in name)
    lora.save(path, adapters, layout)
    load_into(theirs, path)
    same_pictures(ours, theirs)
    for component, part in encoders.items():
        want = getattr(theirs, part)(ours.tokenizer(prompt)).last_hidden_state
        got = getattr(ours, part)(ours.tokenizer(prompt))[0]
        assert_close(got, want, atol=1e-4, rtol=0)
        assert (got - base[part]).abs().max() > 0.1
        adapters[component].detach()
        lora.load(getattr(ours, part), path, prefix=component)
        assert_close(getattr(ours, part)(ours.tokenizer(prompt))[0], want, atol=1e-4, rtol=0)


TARGETS = {"attention": ["to_q", "to_k", "to_v", "to_out.0"],
           "all": ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
                   "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"]}


def their_adapter(theirs, targets, seed, alpha):
    """A random adapter of diffusers' own, named `slider`."""
    theirs.unet.add_adapter(LoraConfig(r=3, lora_alpha=alpha, target_modules=TARGETS[targets]), adapter_name="slider")
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in theirs.unet.named_parameters():
            if "lora_" in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=g))


@pytest.mark.parametrize("model", ["sd1", "xl"])
@pytest.mark.parametrize("targets", TARGETS)
def test_a_lora_saved_by_diffusers_gives_the_same_pictures_here(model, targets, request, tmp_path):
    ours, theirs = request.getfixturevalue(model)
    base = our_pictures(ours)
    their_adapter(theirs, targets, seed=4, alpha=3)
    layers = get_peft_model_state_dict(theirs.unet, adapter_name="slider")
    type(theirs).save_lora_weights(tmp_path, unet_lora_layers=layers)
    adapter = lora.load(ours.unet, tmp_path / "pytorch_lora_weights.safetensors")
    assert 2 * len(adapter.names) == len(layers)
    for adapter.scale in SCALES:
        theirs.unet.set_adapters("slider", adapter.scale)
        assert (same_pictures(ours, theirs) - base).abs().max() > 0.01


def test_alpha_of_a_lora_saved_by_diffusers_counts(sd1, tmp_path):
    ours, theirs = sd1
    their_adapter(theirs, "attention", seed=4, alpha=1.5)
    type(theirs).save_lora_weights(tmp_path, get_peft_model_state_dict(theirs.unet, adapter_name="slider"),
                                   unet_lora_adapter_metadata=theirs.unet.peft_config["slider"].to_dict())
    adapter = lora.load(ours.unet, tmp_path / "pytorch_lora_weights.safetensors")
    assert {a.alpha for a in adapter.adapters} == {1.5}
    same_pictures(ours, theirs)


def test_a_lora_saved_by_diffusers_without_a_component_or_for_kohya_gives_the_same_pictures_here(sd1, tmp_path):
    ours, theirs = sd1
    their_adapter(theirs, "all", seed=6, alpha=3)
    theirs.unet.save_lora_adapter(tmp_path, adapter_name="slider", weight_name="plain.safetensors")
    plain = load_file(tmp_path / "plain.safetensors")
    kohya = convert_state_dict_to_kohya({f"unet.{key}": tensor for key, tensor in plain.items()})
    save_file(kohya, tmp_path / "kohya.safetensors")
    assert all(key.startswith("lora_unet_") for key in kohya)
    for name in ("plain", "kohya"):
        adapter = lora.load(ours.unet, tmp_path / f"{name}.safetensors")
        same_pictures(ours, theirs)
        adapter.detach()
