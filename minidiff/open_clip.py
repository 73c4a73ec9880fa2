"""CLIP in the layout of open_clip: how LAION publishes ViT-H/14 and ViT-bigG/14, and the text encoder inside the single
files of Stable Diffusion 2 and XL.

The network is that of minidiff.clip. Apart from the names, three things are written differently:

    open_clip                                   minidiff, transformers
    ------------------------------------------  ---------------------------------------------------------
    attn.in_proj_weight (3 D, D)                q_proj, k_proj, v_proj (D, D) each, stacked in this order
    text_projection, visual.proj P, as x @ P    a Linear, whose weight is P transposed
    positional_embedding, a bare parameter      the weight of an Embedding

An image tower that is a ResNet has the same names here, but for the prefix: minidiff.resnet.
"""
from pathlib import Path

from . import resnet
from .checkpoints import read_config, read_tensors, rename

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"

NAMES = [(r"^token_embedding\.", "text_model.embeddings.token_embedding."),
         (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
         (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
         (r"^ln_final\.", "text_model.final_layer_norm."),
         (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
         (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
         (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
         (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
         (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
         (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
         (r"\.ln_([12])\.", r".layer_norm\1."), (r"\.attn\.", ".self_attn."),
         (r"\.mlp\.c_fc\.", ".mlp.fc1."), (r"\.mlp\.c_proj\.", ".mlp.fc2.")]
RESNET_NAMES = [(r"^visual\.", "vision_model.")]           # before NAMES: a ResNet's conv1 is no patch embedding
PROJECTIONS = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
IGNORE = (r"(^|\.)attn_mask$", r"position_ids$")          # the causal mask, which some files hold

# What a config may say, with what it means if it does not say it.
VISION = dict(layers=12, width=768, head_width=64, mlp_ratio=4.0, patch_size=16, image_size=224)
TEXT = dict(context_length=77, vocab_size=49408, width=512, heads=8, layers=12, mlp_ratio=4.0)
# What it may also say: the only way in which CLIP is built here, and what changes no output.
ONLY = {"pool_type": ("tok", "argmax"), "pos_embed_type": ("learnable",), "proj_type": ("linear",),
        "block_type": ("default",)}
HARMLESS = ("patch_dropout", "output_tokens", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "pad_id", "eos_id",
            "init_logit_scale", "attn_pooler_queries", "attn_pooler_heads", "embed_dim", "quick_gelu", "vision_cfg",
            "text_cfg")


def is_open_clip(folder):
    """Does the folder hold open_clip's weights, and not also a copy in the layout of transformers?"""
    return (Path(folder) / WEIGHTS).is_file() and not (Path(folder) / "model.safetensors").is_file()


def read(folder, device="cpu"):
    """The config and the tensors of a folder in open_clip's layout, under the names of `minidiff.CLIP`; see `read_tensors`."""
    folder = Path(folder)
    config = read_config(folder, CONFIG if (folder / CONFIG).is_file() else "config.json")
    return config, our_names(read_tensors(folder / WEIGHTS, device))


def our_names(tensors):
    """{key: tensor} of a CLIP, or of its text tower, in open_clip's layout -> under our names; nothing is copied."""
    is_resnet = any(key.startswith("visual.attnpool.") for key in tensors)
    out = {}
    for key, tensor in rename(tensors, RESNET_NAMES + NAMES if is_resnet else NAMES, IGNORE).items():
        if ".in_proj_" in key and tensor.ndim:
            out |= {key.replace("in_proj_", f"{name}_proj."): part for name, part in zip("qkv", tensor.chunk(3))}
        elif key in PROJECTIONS and tensor.ndim == 2:
            out[PROJECTIONS[key]] = tensor.T
        else:
            out[key] = tensor
    return out


def clip_config(config):
    """The config of open_clip, bare or as `model_cfg` in open_clip_config.json -> that of transformers' CLIPModel.

    Raises ValueError for what `minidiff.CLIP` cannot be: a tower of timm or Hugging Face, pooling by mean.
    """
    config = config.get("model_cfg", config)
    check({key: value for key, value in config.items() if not key.startswith("_")})
    vision, text = {**VISION, **config["vision_cfg"]}, {**TEXT, **config["text_cfg"]}
    check({key: value for key, value in vision.items() if key not in VISION})
    check({key: value for key, value in text.items() if key not in TEXT})
    shared = {"hidden_act": "quick_gelu" if config.get("quick_gelu") else "gelu", "projection_dim": config["embed_dim"]}
    return {"projection_dim": config["embed_dim"],
            "text_config": shared | tower(text, text["heads"]) | {
                "vocab_size": text["vocab_size"], "max_position_embeddings": text["context_length"]},
            "vision_config": resnet_tower(vision, config["embed_dim"]) if isinstance(vision["layers"], (list, tuple)) else
            shared | tower(vision, vision["width"] // vision["head_width"]) | {
                "image_size": vision["image_size"], "patch_size": vision["patch_size"]}}


def tower(config, heads):
    width = config["width"]
    return {"hidden_size": width, "intermediate_size": int(width * config["mlp_ratio"]),
            "num_hidden_layers": config["layers"], "num_attention_heads": heads}


def resnet_tower(config, projection):
    same = {key: config[key] for key in ("layers", "width", "image_size")}
    return same | {"model_type": resnet.MODEL_TYPE, "head_dim": config["head_width"], "projection_dim": projection}


def check(extras):
    """ValueError for a key that makes it another network; one that is off (null, false, 0) does not."""
    for key, value in extras.items():
        if value and key not in HARMLESS and value not in ONLY.get(key, ()):
            raise ValueError(f"{key} is {value!r}, which CLIP does not have here")
