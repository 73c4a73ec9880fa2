"""Properties of minidiff.single_file. Golden outputs: diffusers' and transformers' own classes, tolerances measured there
(case.json). Real sizes: on the meta device, against the keys and shapes of the published files."""
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_clip import digest, in_open_clips_layout
from torch.testing import assert_close

from minidiff import single_file
from minidiff.checkpoints import CheckpointError
from minidiff.clip import CLIPText
from minidiff.schedule import Schedule
from minidiff.single_file import MAKERS, PREFIXES, read, split
from minidiff.unet import original_name

GOLDEN = Path(__file__).parent / "golden"
TINY = {family: GOLDEN / f"singlefile-{family}" / "model.safetensors" for family in PREFIXES}
# What no shape shows, in the golden files.
SHARED = {"unet": {"norm_num_groups": 4}, "vae": {"norm_num_groups": 4}}
UNSEEN = {
    "sd1": {**SHARED, "unet": {"norm_num_groups": 4, "attention_head_dim": 2}, "text_encoder": {"num_attention_heads": 3}},
    "sd2": {**SHARED, "unet": {"norm_num_groups": 4, "attention_head_dim": [2, 2, 4]},
            "text_encoder": {"num_attention_heads": 4}},
    "sdxl": {**SHARED, "unet": {"norm_num_groups": 4, "attention_head_dim": [2, 2, 4], "addition_time_embed_dim": 4},
             "text_encoder": {"num_attention_heads": 2}, "text_encoder_2": {"num_attention_heads": 4}},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*no file of Stable Diffusion 2 says")


def golden(family, name):
    return load_file(GOLDEN / f"singlefile-{family}" / f"{name}.safetensors")


def tensors(family="sd1", **more):
    return golden(family, "model") | more


def states(file, family, inputs):
    """What the text encoders make of the golden prompts: states and, for SDXL, the pooled text."""
    text = file.module("text_encoder")
    if family != "sdxl":
        return text(inputs["input_ids"])[0], None
    second, pooled = file.module("text_encoder_2")(inputs["input_ids_2"], skip=1)
    return torch.cat([text(inputs["input_ids"], skip=1)[0], second], dim=-1), pooled


@pytest.mark.parametrize("family", TINY)
@torch.no_grad()
def test_the_parts_of_a_single_file_give_the_peers_outputs(family):
    inputs, want = golden(family, "inputs"), golden(family, "outputs")
    atol = json.loads((GOLDEN / f"singlefile-{family}" / "case.json").read_text())["atol"]
    file = read(TINY[family], UNSEEN[family])
    context, pooled = states(file, family, inputs)
    added = {"text_embeds": pooled, "time_ids": inputs["time_ids"]} if family == "sdxl" else None
    vae = file.module("vae")
    got = {"encoder_hidden_states": context, "decoded": vae.decode(inputs["latents"]), "pooled": pooled,
           "sample": file.module("unet")(inputs["sample"], inputs["timestep"], context, added)}
    got["mean"] = vae.encode(got["decoded"].clamp(-1, 1))[0]
    assert file.family == family and want.keys() == {name for name in got if got[name] is not None}
    for name in want:
        assert_close(got[name], want[name], atol=atol[name], rtol=0, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize("family", TINY)
def test_the_shapes_tell_the_rest_of_the_config(family):
    file = read(TINY[family], UNSEEN[family])
    configs = json.loads((GOLDEN / f"singlefile-{family}" / "config.json").read_text())
    chosen = {"sample_size", "projection_dim"}    # not in the shapes; and nothing depends on them
    for part, want in configs.items():
        for key in want.keys() & file.configs[part].keys() - chosen:
            assert file.configs[part][key] == want[key], (part, key)


# Real sizes

CHANNELS = dict(block_out_channels=[320, 640, 1280, 1280], down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
                up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, transformer_layers_per_block=[1, 1, 1, 1])
UNETS = {
    "sd1": CHANNELS | dict(sample_size=64, attention_head_dim=8, cross_attention_dim=768, use_linear_projection=False),
    "sd2": CHANNELS | dict(sample_size=96, attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024,
                           use_linear_projection=True),
    "sdxl": dict(sample_size=128, block_out_channels=[320, 640, 1280], attention_head_dim=[5, 10, 20],
                 cross_attention_dim=2048, down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2, transformer_layers_per_block=[1, 2, 10],
                 up_block_types=["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], use_linear_projection=True,
                 addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816),
}
TEXTS = {name: dict(_class_name=f"CLIPTextModel{'WithProjection' if name == 'bigG' else ''}", model_type="clip_text_model",
                    vocab_size=49408, max_position_embeddings=77, hidden_size=width, intermediate_size=4 * width,
                    num_hidden_layers=layers, num_attention_heads=heads, hidden_act=act, projection_dim=width)
         for name, width, layers, heads, act in [("L", 768, 12, 12, "quick_gelu"), ("H", 1024, 23, 16, "gelu"),
                                                 ("bigG", 1280, 32, 20, "gelu")]}
UNET_SHARED = dict(_class_name="UNet2DConditionModel", in_channels=4, out_channels=4, layers_per_block=2, norm_num_groups=32)
VAE_SHARED = dict(_class_name="AutoencoderKL", in_channels=3, out_channels=3, block_out_channels=[128, 256, 512, 512],
                  layers_per_block=2, latent_channels=4, norm_num_groups=32)
PUBLISHED = {       # as in the config.json of each part
    "sd1": dict(unet=UNET_SHARED | UNETS["sd1"], vae=VAE_SHARED | dict(scaling_factor=0.18215), text_encoder=TEXTS["L"]),
    "sd2": dict(unet=UNET_SHARED | UNETS["sd2"], vae=VAE_SHARED | dict(scaling_factor=0.18215), text_encoder=TEXTS["H"]),
    "sdxl": dict(unet=UNET_SHARED | UNETS["sdxl"], vae=VAE_SHARED | dict(scaling_factor=0.13025, force_upcast=True),
                 text_encoder=TEXTS["L"], text_encoder_2=TEXTS["bigG"]),
}
# sha256 of the sorted lines "key shape" of the published files.
DIGESTS = {"sd1": "a8a4deed2f03e96d527b5191226f1e3e07f0c221a5653ebf72df0d2e740b5394",
           "sd1 with a moving average": "6b3e8f1a1865263b9517709d09618f6e0a030735c16a54eb7648f52a51d847ee",
           "sd2": "f72387086b4de78c50a1bed0d4bac08ac3ed1aef8faca100a072b241e84a96b4",
           "sdxl": "0a867b1ad801abb950fba96e265407996506e2145bcbc0d5f102e101a31e7e1a"}
TABLES = ("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
          "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
          "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2")


def on_meta(make, config):
    with torch.device("meta"):
        return dict(make(config).state_dict())


def in_the_original_layout(vae, levels=4):
    """{key: tensor} of a VAE under our names -> under the original ones."""
    pairs = [("mid_block.resnets.0", "mid.block_1"), ("mid_block.resnets.1", "mid.block_2"),
             ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
             ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"), ("mid_block.attentions.0.to_", "mid.attn_1."), ("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut"),
             ("samplers.0", "sample"), ("resnets", "block"), ("down_blocks", "down"),
             *((f"up_blocks.{i}.", f"up.{levels - 1 - i}.") for i in range(levels))]
    out = {}
    for key, t in vae.items():
        is_linear = ".attentions." in key and t.ndim == 2
        for ours, theirs in pairs:
            key = key.replace(ours, theirs)
        out[key] = t[:, :, None, None] if is_linear else t
    return out


def published(name):
    """Meta tensors with the keys and shapes of a published file; and those of its parts, {part: {key: tensor}}."""
    family = name.split()[0]
    configs = PUBLISHED[family]
    parts = {part: on_meta(MAKERS[part], config) for part, config in configs.items()}
    here = dict(parts)
    if family == "sd2":                           # the file has one layer more than is run, and a projection
        whole = dict(num_hidden_layers=24, _class_name="CLIPTextModelWithProjection")
        here["text_encoder"] = on_meta(CLIPText, TEXTS["H"] | whole)
    here["unet"] = {original_name(key, configs["unet"]): t for key, t in here["unet"].items()}
    here["vae"] = in_the_original_layout(here["vae"])
    for part, prefix in PREFIXES[family].items():
        if prefix.endswith(".model."):
            here[part] = in_open_clips_layout(here[part]) | {"logit_scale": torch.zeros(())}
        elif part == "text_encoder":
            here[part] = here[part] | {"text_model.embeddings.position_ids": torch.zeros(1, 77)}
    file = {PREFIXES[family][part] + key: t for part, found in here.items() for key, t in found.items()}
    if family != "sdxl":
        file |= {table: torch.zeros(1000) for table in TABLES}
    if family == "sd1":
        file |= {"model_ema.decay": torch.zeros(()), "model_ema.num_updates": torch.zeros(())}
    if name.endswith("average"):
        file |= {"model_ema.diffusion_model" + key.replace(".", ""): t.clone() for key, t in here["unet"].items()}
    return file, parts


@pytest.mark.parametrize("name", DIGESTS)
def test_published_files_are_read_completely(name):
    file, want = published(name)
    assert digest(file) == DIGESTS[name]
    got = split(file, Path("v2-1_768.safetensors"), ema=name.endswith("average"))
    assert got.family == name.split()[0]
    assert got.configs == PUBLISHED[got.family]
    assert {part: digest(found) for part, found in got.tensors.items()} == {part: digest(t) for part, t in want.items()}


# What is taken, and what is not

@pytest.mark.parametrize("family", TINY)
def test_nothing_is_copied(family):
    original = tensors(family)
    there = {t.untyped_storage().data_ptr() for t in original.values()}
    file = split(original, Path("x"), UNSEEN[family])
    for part, found in file.tensors.items():
        assert {t.untyped_storage().data_ptr() for t in found.values()} <= there, part


def test_the_moving_average_is_taken_on_request():
    file = tensors()
    prefix = PREFIXES["sd1"]["unet"]
    averages = {"model_ema.diffusion_model" + key[len(prefix):].replace(".", ""): t + 1
                for key, t in file.items() if key.startswith(prefix)}
    plain = split({**file, **averages}, Path("x"), UNSEEN["sd1"]).tensors
    averaged = split({**file, **averages}, Path("x"), UNSEEN["sd1"], ema=True).tensors
    assert_close(averaged["unet"], {key: t + 1 for key, t in plain["unet"].items()})
    assert_close(averaged["vae"], plain["vae"])
    with pytest.raises(CheckpointError, match="has no moving average .* load it without ema=True"):
        split(file, Path("x"), UNSEEN["sd1"], ema=True)


@pytest.mark.parametrize("layers, want", [(24, 23), (23, 23), (3, 2)])
def test_the_last_text_layer_of_stable_diffusion_2_is_dropped_unless_it_is_missing_already(layers, want):
    file = {key: t for key, t in tensors("sd2").items() if "resblocks" not in key}
    one = {key: t for key, t in tensors("sd2").items() if "resblocks.0." in key}
    file |= {key.replace("resblocks.0", f"resblocks.{i}"): t for i in range(layers) for key, t in one.items()}
    text = split(file, Path("x"), UNSEEN["sd2"])
    assert text.configs["text_encoder"]["num_hidden_layers"] == want
    assert len(text.module("text_encoder").text_model.encoder.layers) == want


def test_what_means_nothing_is_ignored():
    file = tensors("sdxl")
    more = {"denoiser.sigmas": torch.zeros(1000), "conditioner.embedders.0.logit_scale": torch.zeros(()),
            "conditioner.embedders.0.text_projection.weight": torch.zeros(16, 16),
            "conditioner.embedders.0.transformer.text_projection.weight": torch.zeros(16, 16)}
    got, want = split(file | more, Path("x"), UNSEEN["sdxl"]), split(file, Path("x"), UNSEEN["sdxl"])
    assert got.configs == want.configs
    assert_close(got.tensors, want.tensors)


def test_names_of_the_text_encoder_may_lack_their_first_part():
    file = {key.replace("transformer.text_model.", "transformer."): t for key, t in tensors().items()}
    assert_close(split(file, Path("x"), UNSEEN["sd1"]).tensors, split(tensors(), Path("x"), UNSEEN["sd1"]).tensors)


@pytest.mark.parametrize("family, missing",
                         [(family, part) for family in TINY for part in PREFIXES[family] if part != "unet"])
def test_a_missing_part_is_named_or_done_without(family, missing):
    rest = {key: t for key, t in tensors(family).items() if not key.startswith(PREFIXES[family][missing])}
    with pytest.raises(CheckpointError, match=f"without {missing};"):
        split(rest, Path("x"))
    given = {part: config for part, config in UNSEEN[family].items() if part != missing}
    file = split(rest, Path("x"), given, partial=True)
    assert file.family == family and file.configs.keys() == PREFIXES[family].keys() - {missing}


def test_a_ckpt_is_read_as_long_as_it_holds_nothing_but_tensors(tmp_path):
    want = split(tensors(), Path("x"), UNSEEN["sd1"])
    for name, content in [("bare", tensors()), ("nested", {"state_dict": tensors(), "global_step": 7})]:
        torch.save(content, tmp_path / f"{name}.ckpt")
        assert_close(read(tmp_path / f"{name}.ckpt", UNSEEN["sd1"]).tensors, want.tensors)
    torch.save({"state_dict": tensors(), "callbacks": Path("anything but a tensor")}, tmp_path / "code.ckpt")
    with pytest.raises(CheckpointError, match="safetensors"):
        read(tmp_path / "code.ckpt", UNSEEN["sd1"])


# Schedules

@pytest.mark.parametrize("family", TINY)
def test_the_schedule_is_the_one_that_is_published_with_the_family(family):
    schedule = Schedule.from_config(split(tensors(family), Path("x"), UNSEEN[family]).schedule)
    assert schedule == Schedule(prediction_type="epsilon", method="euler" if family == "sdxl" else "ddim")
    assert schedule.beta_end == 0.012 and schedule.steps_offset == 1


@pytest.mark.parametrize("name, given, want, side", [
    ("v2-1_768-ema-pruned.safetensors", None, "v_prediction", 96), ("v2-1_512-ema-pruned.safetensors", None, "epsilon", 64),
    ("my768.safetensors", None, "epsilon", 64), ("mine.safetensors", "v_prediction", "v_prediction", 96),
    ("v2-1_768-ema-pruned.safetensors", "epsilon", "epsilon", 64)])
def test_what_stable_diffusion_2_predicts_is_told_or_guessed_with_a_warning(name, given, want, side):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        file = split(tensors("sd2"), Path(name), UNSEEN["sd2"], prediction_type=given)
    assert (file.schedule["prediction_type"], file.sample_size, file.configs["unet"]["sample_size"]) == (want, side, side)
    assert [want in str(w.message) for w in seen] == ([] if given else [True])


def test_a_note_in_the_file_tells_what_the_unet_predicts():
    file = split(tensors("sdxl", v_pred=torch.zeros(0), ztsnr=torch.zeros(0)), Path("x"), UNSEEN["sdxl"])
    assert Schedule.from_config(file.schedule) == Schedule(prediction_type="v_prediction", rescale_betas_zero_snr=True,
                                                          method="euler")


# Files that are something else

def without(prefix, family="sd1"):
    return {key: t for key, t in tensors(family).items() if not key.startswith(prefix)}


def only(prefix, cut=0):
    return {key[cut:]: t for key, t in tensors().items() if key.startswith(prefix)}


def changed(key, tensor, family="sd1"):
    return tensors(family, **{f"model.diffusion_model.{key}": tensor})


@pytest.mark.parametrize("content, message", [
    (lambda: {"conditioner.embedders.0.model.ln_final.weight": torch.zeros(2)}, "is an SDXL refiner"),
    (lambda: changed("input_blocks.0.0.weight", torch.zeros(8, 9, 3, 3)), "reads 9 channels, .*inpainting; expected 4"),
    (lambda: changed("input_blocks.0.0.weight", torch.zeros(8, 6, 3, 3)), "reads 6 channels"),
    (lambda: tensors(**{"control_model.input_blocks.0.0.weight": torch.zeros(2)}), "is a ControlNet"),
    (lambda: {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(2)}, "is a LoRA.*minidiff.lora.load"),
    (lambda: {"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.zeros(2)}, "is a LoRA"),
    (lambda: tensors("sdxl", edm_mean=torch.zeros(4)), "EDM"),
    (lambda: only("first_stage_model."), "holds a VAE alone"),
    (lambda: only("first_stage_model.", 18), "holds a VAE alone"),
    (lambda: {"mid_block.resnets.0.conv1.weight": torch.zeros(2)}, "holds a UNet alone, in the layout of diffusers"),
    (lambda: only("cond_stage_model.", 29), "holds a CLIP alone"),
    (lambda: {"model.diffusion_model.joint_blocks.0.weight": torch.zeros(2)} | only("first_stage_model."), "not of"),
    (lambda: {"a": torch.zeros(2), "b": torch.zeros(2)}, "does not know; expected .* its keys are a, b"),
    (lambda: {}, "its keys are none"),
    (lambda: tensors(**{"extra.weight": torch.zeros(2)}), "1 of its keys belong to no part of it: extra.weight"),
    (lambda: changed("label_emb.0.0.weight", torch.zeros(32, 48)), "label_emb"),
    (lambda: without("model.diffusion_model.out.2.weight"), "its unet .* Stable Diffusion 1: it lacks out.2.weight"),
    (lambda: without("model.diffusion_model.input_blocks.3.0.op"), "missing down_blocks.0.resnets.2"),
    (lambda: without("model.diffusion_model.input_blocks.2.0.in_layers.0.bias"), "missing down_blocks.0.resnets.1.norm1"),
    (lambda: changed("out.0.extra", torch.zeros(2)), "unexpected model.diffusion_model.out.0.extra"),
    (lambda: changed("out.2.weight", torch.zeros(())), "out.2.weight has shape .*, expected 4 axes"),
    (lambda: without("first_stage_model.post_quant_conv.weight"), "its vae .* lacks post_quant_conv.weight"),
    (lambda: without("cond_stage_model.transformer.text_model.embeddings.token"), "its text_encoder .* lacks .*token_emb"),
    (lambda: without("cond_stage_model.model.transformer.resblocks.1.attn.in_proj_bias", "sd2"), "missing .*q_proj.bias"),
])
def test_a_file_that_is_not_what_it_should_be_is_refused_in_one_sentence(content, message):
    content = content()
    family = "sd2" if any(".resblocks." in key for key in content) else "sdxl" if "edm_mean" in content else "sd1"
    with pytest.raises(CheckpointError, match=f"(?s)here.safetensors.*{message}") as error:
        file = split(content, Path("here.safetensors"), UNSEEN[family])
        for part in file.configs:
            file.module(part)
    assert "missing" in message or "unexpected" in message or "\n" not in str(error.value)


def test_a_damaged_file_and_a_wrong_part_are_refused(tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(TINY["sd1"].read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cut.safetensors"):
        read(path)
    with pytest.raises(CheckpointError, match="no file"):
        read(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="config is for text; .* has text_encoder, unet, vae"):
        read(TINY["sd1"], {"text": {}})
    with pytest.raises(CheckpointError, match="its unet"):
        read(TINY["sd1"])                         # 32 groups do not fit into 8 channels


def test_every_part_is_frozen_and_in_the_type_that_is_asked_for(tmp_path):
    save_file({key: t.half() if t.is_floating_point() else t for key, t in tensors().items()}, tmp_path / "half.safetensors")
    for dtype in (torch.float32, None):
        file = read(tmp_path / "half.safetensors", UNSEEN["sd1"])
        for part in file.configs:
            module = file.module(part, dtype=dtype)
            assert {p.dtype for p in module.parameters()} == {dtype or torch.float16}
            assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_the_module_is_found_by_its_name():
    import minidiff
    assert minidiff.single_file is single_file
