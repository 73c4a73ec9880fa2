"""minidiff.lora on our models, with files as others write them, and for the public families."""
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from minidiff import lora, lora_files
from minidiff.checkpoints import CheckpointError
from minidiff.clip import CLIPText
from minidiff.unet import UNet

torch.set_num_threads(1)          # tiny models: waking a second thread costs more than it brings
GOLDEN = Path(__file__).parent / "golden"


def trained(model, **options):
    """An adapter that has learned something: B is not zero."""
    adapter, g = lora.attach(model, **options), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in adapter.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=g))
    return adapter


# Files of others

def case(name):
    folder = GOLDEN / name
    outputs, atol = load_file(folder / "outputs.safetensors"), json.loads((folder / "case.json").read_text())["atol"]
    config = json.loads((folder / "config.json").read_text())
    return folder, config, load_file(folder / "inputs.safetensors"), outputs, atol


def model(build, config, weights):
    module = build(config).eval()
    module.load_state_dict(load_file(weights))
    return module.requires_grad_(False)


def golden_unet():
    folder, config, inputs, outputs, atol = case("lora")
    unet = model(UNet.from_config, config["unet"], folder / "weights.unet.safetensors")

    def run():
        return unet(inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"])

    return folder, unet, run, outputs, atol


FILES = [("peft", 1.0, "scale1"), ("peft", 0.6, "scale0.6"), ("diffusers", 1.0, "scale1"), ("kohya", 1.0, "scale1"),
         ("kohya", 0.6, "scale0.6"), ("kohya-alpha", 1.0, "kohya.alpha"), ("attn_processor", 1.0, "attention_only")]


@pytest.mark.parametrize("name, scale, want", FILES)
def test_the_files_of_others_do_what_they_do_in_diffusers(name, scale, want):
    folder, unet, run, outputs, atol = golden_unet()
    adapter = lora.load(unet, folder / f"lora.{name}.safetensors")
    adapter.scale = scale
    assert_close(run(), outputs[want], atol=atol[want], rtol=0)
    adapter.merge()
    assert_close(run(), outputs[want], atol=atol[want], rtol=0)


def test_alpha_in_the_header_of_a_peft_file_counts():
    folder, unet, run, outputs, atol = golden_unet()
    adapter = lora.load(unet, folder / "lora.peft-alpha.safetensors")
    assert {a.alpha for a in adapter.adapters} == {8} and {a.rank for a in adapter.adapters} == {4}
    assert_close(run(), outputs["scale1"], atol=atol["scale1"], rtol=0)


def test_alpha_of_single_layers_in_the_header_of_a_peft_file_counts(tmp_path):
    folder, unet, *_ = golden_unet()
    pattern = {"mid_block.attentions.0.proj_in": 2, "to_out.0": 3}
    save_file(load_file(folder / "lora.peft.safetensors"), tmp_path / "a.safetensors",
              metadata={"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "unet.alpha_pattern": pattern})})
    adapter = lora.load(unet, tmp_path / "a.safetensors")
    for name, a in zip(adapter.names, adapter.adapters):
        assert a.alpha == (2 if name == "mid_block.attentions.0.proj_in" else 3 if name.endswith("to_out.0") else 8)


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_a_file_of_others_written_again_does_the_same(tmp_path, layout):
    folder, unet, run, outputs, atol = golden_unet()
    first = lora.load(unet, folder / "lora.kohya-alpha.safetensors")
    first.save(tmp_path / "again.safetensors", layout)
    first.detach()
    lora.load(unet, tmp_path / "again.safetensors")
    assert_close(run(), outputs["kohya.alpha"], atol=atol["kohya.alpha"], rtol=0)


@pytest.mark.parametrize("name", ["kohya", "peft"])
def test_the_files_of_others_do_what_they_do_on_a_text_encoder(name):
    folder, config, inputs, outputs, atol = case("lora-text")
    text = model(CLIPText.from_config, config["text_encoder"], folder / "weights.text_encoder.safetensors")
    assert_close(text(inputs["input_ids"])[0], outputs["base"], atol=atol["base"], rtol=0)
    adapter = lora.load(text, folder / f"lora.{name}.safetensors")
    assert_close(text(inputs["input_ids"])[0], outputs["scale1"], atol=atol["scale1"], rtol=0)
    assert len(adapter.names) == 2 * 6


def test_text_encoder_keys_of_transformers_5_load_too(tmp_path):
    folder, config, inputs, outputs, atol = case("lora-text")
    text = model(CLIPText.from_config, config["text_encoder"], folder / "weights.text_encoder.safetensors")
    tensors = {key.replace("text_model.", ""): t for key, t in load_file(folder / "lora.peft.safetensors").items()}
    save_file(tensors, tmp_path / "a.safetensors")
    lora.load(text, tmp_path / "a.safetensors")
    assert_close(text(inputs["input_ids"])[0], outputs["scale1"], atol=atol["scale1"], rtol=0)


def test_a_text_encoder_adapter_comes_back_the_same(tmp_path):
    folder, config, inputs, *_ = case("lora-text")
    text = model(CLIPText.from_config, config["text_encoder"], folder / "weights.text_encoder.safetensors")
    adapter = trained(text, where=lambda name: "self_attn" in name)
    want = text(inputs["input_ids"])[0]
    for layout, start in (("kohya", "lora_te_text_model_"), ("diffusers", "text_encoder.text_model.")):
        adapter.save(tmp_path / "a.safetensors", layout)
        assert all(key.startswith(start) for key in load_file(tmp_path / "a.safetensors"))
        with adapter.at(0.0):
            again = lora.load(text, tmp_path / "a.safetensors")
            assert_close(text(inputs["input_ids"])[0], want)
            again.detach()


def test_one_file_may_serve_two_models_and_says_so(tmp_path):
    unet_file, text_file = GOLDEN / "lora" / "lora.kohya.safetensors", GOLDEN / "lora-text" / "lora.kohya.safetensors"
    save_file(load_file(unet_file) | load_file(text_file), tmp_path / "both.safetensors")
    _, unet, run, outputs, atol = golden_unet()
    with pytest.warns(UserWarning, match="also for text_encoder"):
        lora.load(unet, tmp_path / "both.safetensors")
    assert_close(run(), outputs["scale1"], atol=atol["scale1"], rtol=0)


def test_text_keys_and_values_computed_ahead_hear_the_adapter_too():
    folder, config, inputs, *_ = case("lora")
    _, unet, run, *_ = golden_unet()
    trained(unet, where="xattn")
    kv = unet.text_kv(inputs["encoder_hidden_states"])
    assert_close(unet(inputs["sample"], inputs["timestep"], kv), run())


# Layers and parameters at rank 4 of the Concept Sliders code on SD 1.x, counted there.
SD15 = {"noxattn": (150, 2_906_880), "innoxattn": (150, 2_906_880), "xattn": (64, 397_824), "xattn-strict": (48, 297_984),
        "selfattn": (64, 399_360), "full": (214, 3_304_704), "noxattn-hspace": (10, 266_240),
        "noxattn-hspace-last": (1, 51_200)}


@pytest.fixture(scope="module")
def sd15():
    with torch.device("meta"):
        return UNet()


@pytest.mark.parametrize("where", SD15)
def test_layers_and_parameters_on_stable_diffusion_are_those_of_the_official_code(sd15, where):
    adapter = lora.attach(sd15, where=where)
    adapter.detach()
    assert (len(adapter.names), sum(p.numel() for p in adapter.parameters())) == SD15[where]


# Families

XL = dict(block_out_channels=[8, 16, 16], layers_per_block=1, norm_num_groups=4, attention_head_dim=[1, 2, 2],
          down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
          up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], transformer_layers_per_block=[1, 1, 2],
          use_linear_projection=True, cross_attention_dim=24, addition_embed_type="text_time", addition_time_embed_dim=8,
          projection_class_embeddings_input_dim=64)


def tiny_xl():
    torch.manual_seed(0)
    return UNet.from_config(XL)


def run_xl(unet):
    g = torch.Generator().manual_seed(0)
    added = {"text_embeds": torch.randn(1, 16, generator=g), "time_ids": torch.zeros(1, 6)}
    return unet(torch.randn(1, 4, 8, 8, generator=g), 7, torch.randn(1, 3, 24, generator=g), added)


def test_the_layers_of_an_sdxl_unet_are_written_under_the_names_of_the_original_code(tmp_path):
    unet = tiny_xl()
    adapter = trained(unet, where="full")
    adapter.save(tmp_path / "a.safetensors")
    names = {key.partition(".")[0] for key in load_file(tmp_path / "a.safetensors")}
    assert len(names) == len(adapter.names)
    assert {"lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q", "lora_unet_input_blocks_2_0_op",
            "lora_unet_middle_block_1_transformer_blocks_1_attn2_to_out_0", "lora_unet_input_blocks_5_0_in_layers_2",
            "lora_unet_output_blocks_1_2_conv", "lora_unet_output_blocks_5_0_skip_connection"} < names
    assert all(re.match("lora_unet_(input|middle|output)_block", name) for name in names)
    adapter.save(tmp_path / "a.safetensors", "diffusers")
    assert all(re.match("unet.(down|mid|up)_block", key) for key in load_file(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("make, where", [(tiny_xl, "noxattn"), (tiny_xl, "full"), (tiny_xl, lambda name: True)])
def test_an_sdxl_file_comes_back_the_same_under_the_names_of_either_code(tmp_path, make, where):
    adapter = trained(make(), where=where)
    want = run_xl(adapter.module)
    adapter.save(tmp_path / "original.safetensors")
    adapter.module.config["addition_embed_type"] = None                  # writes the names of diffusers
    adapter.save(tmp_path / "diffusers.safetensors")
    assert not set(load_file(tmp_path / "original.safetensors")) & set(load_file(tmp_path / "diffusers.safetensors"))
    for name in ("original", "diffusers"):
        lora.load(fresh := make(), tmp_path / f"{name}.safetensors")
        assert_close(run_xl(fresh), want)


def test_a_stable_diffusion_1_file_may_have_the_names_of_the_original_code_too(tmp_path):
    folder, unet, run, outputs, atol = golden_unet()
    theirs = lora_files.original_names(unet)
    ours = {lora_files.flat(name): name for name in lora.adaptable(unet)}
    tensors = {}
    for key, tensor in load_file(folder / "lora.kohya.safetensors").items():
        name, _, rest = key.removeprefix("lora_unet_").partition(".")
        tensors[f"lora_unet_{lora_files.flat(theirs[ours[name]])}.{rest}"] = tensor
    save_file(tensors, tmp_path / "a.safetensors")
    lora.load(unet, tmp_path / "a.safetensors")
    assert_close(run(), outputs["scale1"], atol=atol["scale1"], rtol=0)


@pytest.fixture(scope="module")
def sdxl():
    with torch.device("meta"):
        return UNet.from_config(XL | dict(
            block_out_channels=[320, 640, 1280], layers_per_block=2, norm_num_groups=32, attention_head_dim=[5, 10, 20],
            transformer_layers_per_block=[1, 2, 10], cross_attention_dim=2048, addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816))


# kohya's numbers for SDXL: input_blocks 4, 5, 7, 8 have attention, output_blocks 0 to 5, middle_block 1.
NUMBERS = {"down_blocks.1.attentions.0": "input_blocks.4.1", "down_blocks.1.attentions.1": "input_blocks.5.1",
           "down_blocks.2.attentions.0": "input_blocks.7.1", "down_blocks.2.attentions.1": "input_blocks.8.1",
           "mid_block.attentions.0": "middle_block.1", "up_blocks.0.attentions.2": "output_blocks.2.1",
           "up_blocks.1.attentions.0": "output_blocks.3.1", "up_blocks.1.attentions.2": "output_blocks.5.1"}


def test_the_block_numbers_of_the_true_sdxl_are_those_of_kohya(sdxl):
    names = lora_files.original_names(sdxl)
    for ours, theirs in NUMBERS.items():
        last = ".transformer_blocks.1.attn1.to_q"
        assert names[ours + last] == theirs + last


@pytest.mark.parametrize("size", ["sd15", "sdxl"])
def test_no_name_in_any_layout_means_two_layers(size, request):
    unet = request.getfixturevalue(size)
    layers, theirs = lora.adaptable(unet), lora_files.original_names(unet)
    assert len(set(theirs.values())) == len(layers)
    both = {lora_files.flat(name) for name in (*layers, *theirs.values())}
    assert len(both) == 2 * len(layers) and set(lora_files.names_in_files(unet)) == both


@pytest.mark.parametrize("header, width, message", [
    ({}, 2048, "is a LoRA for sdxl_base_v1-0, this UNet is sd_v1"),
    ({}, 1024, "is a LoRA for sd_v2, this UNet is sd_v1"),
    ({"ss_base_model_version": "sd_v2_v"}, None, "is a LoRA for sd_v2_v, this UNet is sd_v1"),
    ({"ss_base_model_version": "flux1"}, 768, "is a LoRA for flux1, this UNet is sd_v1")])
def test_a_lora_for_another_family_is_refused_by_text_width_or_header(sd15, tmp_path, header, width, message):
    block = "down_blocks_1_attentions_0_transformer_blocks_0"
    layer, width = ("attn2_to_k", width) if width else ("attn1_to_k", 640)
    key = f"lora_unet_{block}_{layer}"
    save_file({f"{key}.lora_down.weight": torch.zeros(4, width), f"{key}.lora_up.weight": torch.zeros(640, 4)},
              tmp_path / "a.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match=message) as error:
        lora.load(sd15, tmp_path / "a.safetensors")
    assert "\n" not in str(error.value)


def test_the_header_says_the_family_and_the_same_family_is_accepted(sd15, tmp_path):
    adapter = lora.attach(sd15, where="noxattn-hspace-last")
    adapter.detach()
    real = lora.Adapter(nn.Conv2d(1280, 1280, 3, padding=1), 4, 1.0)         # not on the meta device: it can be saved
    lora.save(tmp_path / "a.safetensors", {"unet": SimpleNamespace(names=adapter.names, adapters=[real], module=sd15)})
    with safe_open(tmp_path / "a.safetensors", "pt") as f:
        assert f.metadata()["ss_base_model_version"] == "sd_v1"
    lora.load(sd15, tmp_path / "a.safetensors").detach()


def test_a_kandinsky_unet_is_of_none_of_these_families_and_has_no_original_names(tmp_path):
    config = json.loads((GOLDEN / "unet-kandinsky22" / "config.json").read_text())["unet"]
    unet = UNet.from_config(config | {"cross_attention_dim": 768})
    assert lora_files.family(unet) is None and lora_files.original_names(unet) == {}
    adapter = trained(unet, where="full")
    adapter.save(tmp_path / "a.safetensors")
    adapter.detach()
    again = lora.load(unet, tmp_path / "a.safetensors")
    assert again.names == adapter.names
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), adapter.parameters()))


def test_an_sdxl_slider_does_not_fit_a_stable_diffusion_1_even_if_it_is_not_about_text(sd15, tmp_path):
    trained(tiny_xl(), where="noxattn").save(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="does not fit this UNet, 88 of 88 layers; is it for another model"):
        lora.load(sd15, tmp_path / "a.safetensors")
