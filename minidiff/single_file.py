"""One file that holds a whole model: Stable Diffusion 1, 2 or XL in the layout of the original code.

    model.diffusion_model.*                  the UNet, under the names of the original code
    model_ema.*                              its moving average over training; names without dots, in few files
    first_stage_model.*                      the autoencoder
    cond_stage_model.transformer.*           SD 1: the text encoder, names of transformers
    cond_stage_model.model.*                 SD 2: the text encoder, names of open_clip
    conditioner.embedders.0.transformer.*    SD XL: the first text encoder, names of transformers
    conditioner.embedders.1.model.*          SD XL: the second, names of open_clip

There is no config in such a file. The family shows in the names; widths, depths and so on show in the shapes; what no shape
shows, such as the number of heads, is the same in all models of a family.
"""
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from . import open_clip
from .checkpoints import CheckpointError, build, read_tensors, rename
from .clip import TEXT_NAMES, CLIPText
from .tensorfile import printable
from .unet import UNet, original_name
from .vae import VAE, modern_names

TITLES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
MAKERS = {"text_encoder": CLIPText, "text_encoder_2": CLIPText, "unet": UNet.from_config, "vae": VAE.from_config}
BOTH = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
PREFIXES = {
    "sd1": {"text_encoder": "cond_stage_model.transformer.", **BOTH},
    "sd2": {"text_encoder": "cond_stage_model.model.", **BOTH},
    "sdxl": {"text_encoder": "conditioner.embedders.0.transformer.",
             "text_encoder_2": "conditioner.embedders.1.model.", **BOTH},
}

# Keys that mean nothing here: tables that follow from the schedule, counters, the temperature and projection of a CLIP
# whose embedding nobody asks for. `schedule_config` looks at v_pred and ztsnr.
IGNORE = re.compile(r"(betas|\w*alphas_cumprod\w*|posterior_\w+|denoiser\.sigmas|v_pred|ztsnr|model_ema\..*"
                    r"|(cond_stage_model|conditioner\.embedders\.\d)\.(logit_scale|text_projection(\.weight)?))")

# What else a file may be, by its keys. The first row that fits is what the user is told.
STRANGERS = [
    (r"^control_model\.", "is a ControlNet, which minidiff does not have"),
    (r"(^|[._])lora[._]", "is a LoRA, or holds one; attach it to a model with minidiff.lora.load"),
    (r"^conditioner\.embedders\.0\.model\.", "is an SDXL refiner, which minidiff does not have; load the SDXL base model"),
    (r"^edm_", "was trained with the schedule of EDM (Playground 2.5), which minidiff does not have"),
]
WITHOUT_UNET = [
    (r"^model\.diffusion_model\.", "holds a UNet that is not of Stable Diffusion"),
    (r"^(first_stage_model\.)?((en|de)coder|(post_)?quant_conv)\.", "holds a VAE alone"),
    (r"^(down_blocks|mid_block)\.", "holds a UNet alone, in the layout of diffusers; load its folder, with config.json"),
    (r"^(text_model|vision_model|transformer\.resblocks|visual)\.", "holds a CLIP alone; load its folder, with config.json"),
    (r"", "is in a layout that minidiff does not know"),
]
# What a UNet reads besides the 4 channels of the latents, by the number of channels.
EXTRAS = {5: "a depth map", 7: "the picture to enlarge", 8: "the picture to edit", 9: "mask and picture for inpainting"}


@dataclass
class SingleFile:
    """What `read` found.

    Attributes:
        family: "sd1", "sd2" or "sdxl".
        configs: {part: dict as in its config.json}; parts are text_encoder, text_encoder_2 (SDXL), unet, vae.
        tensors: {part: {key: tensor}} under the names of our modules, in the type of the file.
        schedule: dict as in scheduler_config.json.
        sample_size: side of the latents that the model was trained with.
    """
    path: Path
    family: str
    configs: dict
    tensors: dict
    schedule: dict
    sample_size: int

    def module(self, part, device=None, dtype=None):
        """The module of a part, frozen and in eval mode; CheckpointError if the tensors do not fit it.

        Its tensors are taken out of `tensors`, so that they need not be in memory twice: a part can be made once.
        """
        return build(MAKERS[part], self.configs[part], self.tensors[part], f"{self.path} ({part})", device, dtype)


def read(path, config=None, prediction_type=None, ema=False, partial=False):
    """The parts of the model in a .safetensors or .ckpt file, memory-mapped; nothing is copied.

    Args:
        config: {part: {key: value}} for what no shape shows and is not as usual in the family, such as the number of heads
            of a model of one's own.
        prediction_type: "epsilon" or "v_prediction". None: v if the file says so; else a guess for Stable Diffusion 2, with
            a warning, as 2.1 (v, 768 pixels) and 2.1-base (epsilon, 512) look alike: v if the name of the file has "v2" and
            "768" in it; else epsilon.
        ema: take the moving average of the UNet's weights instead of the weights.
        partial: read what there is if the VAE or a text encoder is missing.

    Raises CheckpointError for anything but a text-to-image model of these families, and says what it is.
    """
    return split(read_tensors(Path(path)), Path(path), config, prediction_type, ema, partial)


def split(tensors, path, config=None, prediction_type=None, ema=False, partial=False):
    """What `read` does with the {key: tensor} of a file, whose name is `path`. Looks at no values: meta tensors will do."""
    family = family_of(tensors, path)
    parts = parts_of(tensors, family, path, partial)
    if ema:
        parts["unet"] = moving_average(tensors, parts["unet"], path)
    schedule = schedule_config(family, tensors, path, prediction_type)
    sample_size = {"sd1": 64, "sd2": 96 if schedule["prediction_type"] == "v_prediction" else 64, "sdxl": 128}[family]

    config, configs, named = config or {}, {}, {}
    if not config.keys() <= parts.keys():
        raise ValueError(f"config is for {', '.join(config)}; {path} has {', '.join(parts)}")
    readers = {"text_encoder": read_text, "text_encoder_2": read_text, "unet": read_unet, "vae": read_vae}
    for part, found in parts.items():
        try:
            configs[part], named[part] = readers[part](found, family, part, config.get(part, {}))
        except Exception as error:                # odd names and shapes can be wrong in many ways
            raise CheckpointError(f"{path}: its {part} is not that of a {TITLES[family]}: {printable(error)}") from error
    configs["unet"] = {"sample_size": sample_size, **configs["unet"]}
    return SingleFile(path, family, configs, named, schedule, sample_size)


# Which file it is

def family_of(tensors, path):
    """"sd1", "sd2" or "sdxl", by the names of the text encoder; without one, by the UNet."""
    refuse(tensors, STRANGERS, path)
    unet = BOTH["unet"]
    first = tensors.get(f"{unet}input_blocks.0.0.weight")
    if first is None or first.ndim != 4:
        refuse(tensors, WITHOUT_UNET, path)
    if first.shape[1] != 4:
        extra = EXTRAS.get(first.shape[1], "something else")
        raise CheckpointError(f"{path}: its UNet reads {first.shape[1]} channels, latents and {extra}; "
                              "expected 4, a text-to-image model")
    for family, prefixes in PREFIXES.items():
        if any(key.startswith((prefixes["text_encoder"], prefixes.get("text_encoder_2", "?"))) for key in tensors):
            return family
    if f"{unet}label_emb.0.0.weight" in tensors:
        return "sdxl"
    proj_in = tensors.get(f"{unet}middle_block.1.proj_in.weight")
    return "sd2" if proj_in is not None and proj_in.ndim == 2 else "sd1"


def refuse(tensors, rows, path):
    for pattern, what in rows:
        if not pattern or any(re.search(pattern, key) for key in tensors):
            raise CheckpointError(f"{path} {what}; expected a whole Stable Diffusion 1, 2 or XL in the original layout, "
                                  f"its keys are {some(tensors) or 'none'}")


def parts_of(tensors, family, path, partial):
    """{part: {key without its prefix: tensor}}. CheckpointError if a part is missing or a key belongs to none."""
    parts = {part: {key[len(prefix):]: t for key, t in tensors.items() if key.startswith(prefix)}
             for part, prefix in PREFIXES[family].items()}
    missing = [part for part, found in parts.items() if not found]
    if missing and not partial:
        raise CheckpointError(f"{path} is a {TITLES[family]} without {' and '.join(missing)}; "
                              "load a complete file, or with partial=True what there is")
    prefixes = tuple(PREFIXES[family].values())
    unknown = [key for key in tensors if not key.startswith(prefixes) and not IGNORE.fullmatch(key)]
    if unknown:
        raise CheckpointError(f"{path} is a {TITLES[family]}, but {len(unknown)} of its keys belong to no part of it: "
                              f"{some(unknown)}")
    return {part: found for part, found in parts.items() if found}


def some(keys):
    return ", ".join(map(printable, list(keys)[:3])) + (", ..." if len(keys) > 3 else "")


def moving_average(tensors, unet, path):
    """The averaged copy of the UNet's weights: the same names, without their dots."""
    names = {key: "model_ema.diffusion_model" + key.replace(".", "") for key in unet}
    missing = [name for name in names.values() if name not in tensors]
    if missing:
        raise CheckpointError(f"{path} has no moving average of its UNet ({len(missing)} of {len(names)} keys are missing, "
                              f"such as {missing[0]}); load it without ema=True")
    return {key: tensors[name] for key, name in names.items()}


def schedule_config(family, tensors, path, prediction_type):
    """As in the scheduler_config.json that is published with the family."""
    if prediction_type is None:
        prediction_type = "v_prediction" if "v_pred" in tensors else "epsilon"      # a note in some community files
        if family == "sd2" and "v_pred" not in tensors:
            name = path.name.lower()
            prediction_type = "v_prediction" if "v2" in name and "768" in name else "epsilon"
            warnings.warn(f"{path}: no file of Stable Diffusion 2 says what its UNet predicts; by the name it is "
                          f"{prediction_type}; if pictures are grey or burnt, pass the other prediction_type", stacklevel=4)
    return {"_class_name": "EulerDiscreteScheduler" if family == "sdxl" else "DDIMScheduler", "num_train_timesteps": 1000,
            "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
            "set_alpha_to_one": False, "steps_offset": 1, "timestep_spacing": "leading", "prediction_type": prediction_type,
            "rescale_betas_zero_snr": "ztsnr" in tensors}


# One part: its config, and its tensors under our names

def read_text(tensors, family, part, given):
    is_open_clip = "ln_final.weight" in tensors
    tensors = rename(open_clip.our_names(tensors), TEXT_NAMES, [r"^logit_scale$"])
    if part == "text_encoder":
        tensors = rename(tensors, (), [r"^text_projection\b"])                      # nobody asks for its pooled output
    layers = count(tensors, r"^text_model\.encoder\.layers\.(\d+)\.")
    if family == "sd2" and layers != 23:
        # All 24 layers of ViT-H/14 are there, but the model was trained on what comes before the last one. Files that were
        # converted from a diffusers folder have only the 23.
        layers -= 1
        tensors = rename(tensors, (), [rf"^text_model\.encoder\.layers\.{layers}\."])

    vocabulary, width = shape(tensors, "text_model.embeddings.token_embedding.weight", 2)
    is_projected = part == "text_encoder_2"
    config = {
        "_class_name": "CLIPTextModelWithProjection" if is_projected else "CLIPTextModel", "model_type": "clip_text_model",
        "vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": shape(tensors, "text_model.encoder.layers.0.mlp.fc1.weight", 2)[0],
        "max_position_embeddings": shape(tensors, "text_model.embeddings.position_embedding.weight", 2)[0],
        "projection_dim": shape(tensors, "text_projection.weight", 2)[0] if is_projected else width,
        "hidden_act": "gelu" if is_open_clip else "quick_gelu"}                     # LAION's CLIP, OpenAI's CLIP
    return config | given, tensors


def read_unet(tensors, family, part, given):
    config = unet_config(tensors, family) | given
    with torch.device("meta"):
        names = {original_name(key, config): key for key in UNet.from_config(config).state_dict()}
    return config, {names.get(key, BOTH["unet"] + key): t for key, t in tensors.items()}


def unet_config(tensors, family):
    levels = [[]]                                 # the residual blocks of each level; halving the side ends a level
    for i in range(1, count(tensors, r"^input_blocks\.(\d+)\.")):
        if f"input_blocks.{i}.0.op.weight" in tensors:
            levels.append([])
        else:
            levels[-1].append(f"input_blocks.{i}")
    channels = [shape(tensors, f"{level[0]}.0.out_layers.3.weight", 4)[0] for level in levels]
    depths = [count(tensors, rf"^{level[0]}\.1\.transformer_blocks\.(\d+)\.") for level in levels]
    attends = [depth > 0 for depth in depths]
    depths[-1] = count(tensors, r"^middle_block\.1\.transformer_blocks\.(\d+)\.")   # the config has one number for both
    proj_in = tensors.get("middle_block.1.proj_in.weight")                          # a Linear, or a 1x1 convolution
    config = {
        "_class_name": "UNet2DConditionModel", "in_channels": shape(tensors, "input_blocks.0.0.weight", 4)[1],
        "out_channels": shape(tensors, "out.2.weight", 4)[0], "block_out_channels": channels,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "layers_per_block": len(levels[0]), "transformer_layers_per_block": [max(1, depth) for depth in depths],
        "attention_head_dim": 8 if family == "sd1" else [max(1, width // 64) for width in channels], "norm_num_groups": 32,
        "cross_attention_dim": shape(tensors, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2)[1],
        "use_linear_projection": proj_in is not None and proj_in.ndim == 2}
    return config | added_config(tensors, family)


def added_config(tensors, family):
    """What is added to the time embedding: in SDXL pooled text and 256 sinusoids of each of six numbers."""
    if family != "sdxl":
        if "label_emb.0.0.weight" in tensors or "label_emb.weight" in tensors:
            raise ValueError("it takes an image embedding or a noise level besides the text (label_emb)")
        return {}
    return {"addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": shape(tensors, "label_emb.0.0.weight", 2)[1]}


def read_vae(tensors, family, part, given):
    tensors = modern_names(tensors)
    config = {
        "_class_name": "AutoencoderKL", "in_channels": shape(tensors, "encoder.conv_in.weight", 4)[1],
        "out_channels": shape(tensors, "decoder.conv_out.weight", 4)[0],
        "block_out_channels": [shape(tensors, f"encoder.down_blocks.{i}.resnets.0.conv1.weight", 4)[0]
                               for i in range(count(tensors, r"^encoder\.down_blocks\.(\d+)\."))],
        "layers_per_block": count(tensors, r"^encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": shape(tensors, "post_quant_conv.weight", 4)[0], "norm_num_groups": 32,
        "scaling_factor": 0.13025 if family == "sdxl" else 0.18215}
    if family == "sdxl":
        config["force_upcast"] = True             # its activations are too large for float16
    return config | given, tensors


def count(tensors, pattern):
    """How many different numbers the keys have where `pattern` has its group."""
    return len({m[1] for key in tensors if (m := re.match(pattern, key))})


def shape(tensors, key, axes):
    if key not in tensors:
        raise ValueError(f"it lacks {key}")
    if tensors[key].ndim != axes:
        raise ValueError(f"{key} has shape {tuple(tensors[key].shape)}, expected {axes} axes")
    return tuple(tensors[key].shape)
