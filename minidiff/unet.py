"""The denoising UNet of latent diffusion. Rombach et al., CVPR 2022, arXiv:2112.10752v2, Sec. 3.2-3.3.

One class, driven by its config: Stable Diffusion 1.x and 2.x, and toybox. It reads as a table. SD 1.5, for example
(one line is one level, `x2` a residual block and a transformer, twice):

    down                            middle                        up
    320   (res, attention) x2, half                               320   (res, attention) x3
    640   (res, attention) x2, half                               640   (res, attention) x3, double
    1280  (res, attention) x2, half                               1280  (res, attention) x3, double
    1280  (res) x2                  (res, attention, res)         1280  (res) x3, double

What every block on the way down puts out is pushed onto a list; every residual block on the way up pops one.
Modules carry the names of diffusers (UNet2DConditionModel), so its checkpoints load without renaming.
"""
import inspect
import math
from itertools import zip_longest

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .attention import Attention, TextKV, Transformer
from .checkpoints import from_folder

# Block types by the names in config.json: does the level have attention?
DOWN = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
UP = {"CrossAttnUpBlock2D": True, "UpBlock2D": False}


class UNet(nn.Module):
    """Predicts the noise (or x_0, or v: the schedule's business) in a noisy latent.

    Args: named as in config.json, with the defaults of SD 1.5.
        in_channels, out_channels: of the latent.
        block_out_channels: channels of each level, fine to coarse; each level but the last halves the side.
        down_block_types, up_block_types: see `DOWN` and `UP`.
        layers_per_block: residual blocks per level on the way down; one more on the way up.
        attention_head_dim: the NUMBER of heads, a naming mistake in the configs of Stable Diffusion that everybody
            keeps; one int, or one per level.
        cross_attention_dim: D, width of the text; None for a UNet without text (toybox only).
        norm_num_groups, norm_eps: of the GroupNorms. To train on a CPU choose groups of 16 channels or more: with
            fewer, PyTorch's kernel for channels_last takes 3 to 18 times as long in bfloat16.
        use_linear_projection: see `Transformer`.
    Not needed here: `upcast_attention` (SD 2.1), because `attend` never holds unscaled products in half precision.
    """

    # What a config may also say, and the only value it may have here.
    ONLY = {"_class_name": "UNet2DConditionModel", "act_fn": "silu", "mid_block_type": "UNetMidBlock2DCrossAttn",
            "flip_sin_to_cos": True, "freq_shift": 0, "center_input_sample": False, "downsample_padding": 1,
            "mid_block_scale_factor": 1, "dual_cross_attention": False, "only_cross_attention": False,
            "num_class_embeds": None, "class_embed_type": None, "num_attention_heads": None,
            "transformer_layers_per_block": 1, "addition_embed_type": None, "encoder_hid_dim": None,
            "encoder_hid_dim_type": None, "resnet_time_scale_shift": "default", "time_embedding_type": "positional",
            "time_embedding_dim": None, "time_embedding_act_fn": None, "timestep_post_act": None,
            "time_cond_proj_dim": None, "conv_in_kernel": 3, "conv_out_kernel": 3, "cross_attention_norm": None,
            "mid_block_only_cross_attention": None, "resnet_skip_time_act": False, "resnet_out_scale_factor": 1,
            "attention_type": "default", "dropout": 0}

    def __init__(self, in_channels=4, out_channels=4, block_out_channels=(320, 640, 1280, 1280),
                 down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                 up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
                 layers_per_block=2, attention_head_dim=8, cross_attention_dim=768, norm_num_groups=32, norm_eps=1e-5,
                 use_linear_projection=False):
        super().__init__()
        levels, channels = len(block_out_channels), list(block_out_channels)
        heads = [attention_head_dim] * levels if isinstance(attention_head_dim, int) else list(attention_head_dim)
        self.config = {"_class_name": "UNet2DConditionModel", "in_channels": in_channels, "out_channels": out_channels,
                       "block_out_channels": channels, "down_block_types": list(down_block_types),
                       "up_block_types": list(up_block_types), "layers_per_block": layers_per_block,
                       "attention_head_dim": heads, "cross_attention_dim": cross_attention_dim,
                       "norm_num_groups": norm_num_groups, "norm_eps": norm_eps,
                       "use_linear_projection": use_linear_projection}
        check_levels(self.config)

        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], 4 * channels[0])
        skips = [channels[0]]                     # channels of what `forward` pushes; the way up pops them again
        self.down_blocks = nn.ModuleList(self.down(level, skips) for level in range(levels))
        self.mid_block = self.middle(skips[-1])
        self.up_blocks = nn.ModuleList(self.up(level, skips) for level in reversed(range(levels)))
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, channels[0], eps=norm_eps)
        self.conv_out = nn.Conv2d(channels[0], out_channels, 3, padding=1)

    def forward(self, x, t, context=None, added=None):
        """The raw prediction.

        Args:
            x: noisy latents, (B, C, H, W).
            t: timesteps 0 .. T-1, int64, (B,) or one for all.
            context: text states (B, L, D), or what `text_kv` made of them; None if this UNet has no cross-attention.
            added: further conditions by name; the models so far have none.

        Returns: (B, out_channels, H, W). Raises ValueError if the conditions do not fit the UNet or the batch.
        """
        self.check_conditions(x, context, added)
        time = self.time_embedding(t, x)
        x = self.conv_in(x)

        skips = [x]
        for level in self.down_blocks:
            for res, attention in level.rows():
                x = attention(res(x, time), context)
                skips.append(x)
            for downsample in level.downsamplers:
                x = downsample(x)
                skips.append(x)

        for res, attention in self.mid_block.rows():
            x = attention(res(x, time), context)

        for level in self.up_blocks:
            for res, attention in level.rows():
                x = torch.cat([x, skips.pop()], dim=1)
                x = attention(res(x, time), context)
            for upsample in level.upsamplers:
                x = upsample(x, size=skips[-1].shape[-2:])

        return self.conv_out(F.silu(self.conv_norm_out(x)))

    # The three lists of blocks. Level 0 is the finest.

    def down(self, level, skips):
        channels, attends = self.config["block_out_channels"][level], DOWN[self.config["down_block_types"][level]]
        block = Level()
        for _ in range(self.config["layers_per_block"]):
            block.add(self.res(skips[-1], channels), self.transformer(level) if attends else None)
            skips.append(channels)
        if level < len(self.config["block_out_channels"]) - 1:
            block.downsamplers.append(Downsample(channels))
            skips.append(channels)
        return block

    def middle(self, channels):
        block = Level()
        block.add(self.res(channels, channels), self.transformer(-1))
        block.add(self.res(channels, channels))
        return block

    def up(self, level, skips):
        # The config lists the types in the order of the way up: coarse to fine.
        channels, attends = self.config["block_out_channels"], UP[self.config["up_block_types"][-1 - level]]
        width = (*channels, channels[-1])[level + 1]             # what comes from below
        block = Level()
        for _ in range(self.config["layers_per_block"] + 1):
            block.add(self.res(width + skips.pop(), channels[level]), self.transformer(level) if attends else None)
            width = channels[level]
        if level > 0:
            block.upsamplers.append(Upsample(width))
        return block

    def res(self, before, after):
        c = self.config
        return ResBlock(before, after, 4 * c["block_out_channels"][0], c["norm_num_groups"], c["norm_eps"])

    def transformer(self, level):
        c = self.config
        return Transformer(c["block_out_channels"][level], c["attention_head_dim"][level], c["cross_attention_dim"],
                           c["norm_num_groups"], c["use_linear_projection"])

    def cross_attentions(self):
        """{name: layer} of the layers that attend to the text, in the order they run in."""
        return {name: layer for name, layer in self.attentions().items() if layer.is_cross}

    def self_attentions(self):
        """{name: layer} of the layers in which the image attends to itself, in the order they run in."""
        return {name: layer for name, layer in self.attentions().items() if not layer.is_cross}

    def attentions(self):
        return {name: layer for name, layer in self.named_modules() if isinstance(layer, Attention)}

    def text_kv(self, context):
        """Text states (B, L, D) -> keys and values of every cross-attention layer, to pass in their place."""
        self.check_width(context)
        return TextKV({layer: layer.keys_values(context) for layer in self.cross_attentions().values()})

    def check_conditions(self, x, context, added):
        if added:
            raise ValueError(f"this UNet takes no added conditions, but got {', '.join(added)}")
        if (context is None) != (self.config["cross_attention_dim"] is None):
            raise ValueError("this UNet needs text states (B, L, D) as its context; it got None" if context is None else
                             "this UNet takes no context, because it has no cross-attention; it got one")
        if context is None:
            return
        if len(context) != len(x):
            raise ValueError(f"context is for a batch of {len(context)}, x is a batch of {len(x)}; repeat the context")
        if not isinstance(context, TextKV):
            self.check_width(context)

    def check_width(self, context):
        width = self.config["cross_attention_dim"]
        if context.ndim != 3 or context.shape[-1] != width:
            raise ValueError(f"context has shape {tuple(context.shape)}, expected (B, L, {width}): "
                             "is it from the text encoder that this UNet was trained with?")

    @classmethod
    def from_config(cls, config):
        """Build from the dict in config.json, random weights. ValueError for what this class cannot be."""
        for key, only in cls.ONLY.items():
            if config.get(key, only) != only:
                raise ValueError(f"{key} is {config[key]!r}; UNet supports only {only!r}")
        config = {"cross_attention_dim": 1280, **config}         # what a config.json that does not say means
        known = inspect.signature(cls).parameters
        return cls(**{key: value for key, value in config.items() if key in known})

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None):
        """Load config.json and the weights in `folder`, frozen and in eval mode; CheckpointError if they do not fit."""
        return from_folder(cls.from_config, folder, device, dtype)


def check_levels(config):
    """ValueError unless every list of the config has one entry per level, of a kind that exists."""
    levels = len(config["block_out_channels"])
    for key in ("down_block_types", "up_block_types", "attention_head_dim"):
        if len(config[key]) != levels:
            raise ValueError(f"{key} has {len(config[key])} entries, block_out_channels has {levels}")
    for key, known in (("down_block_types", DOWN), ("up_block_types", UP)):
        unknown = [name for name in config[key] if name not in known]
        if unknown:
            raise ValueError(f"{key} has {unknown[0]!r}; UNet knows {', '.join(known)}")


class Level(nn.Module):
    """The blocks at one resolution, in the lists that the names of the checkpoint ask for."""

    def __init__(self):
        super().__init__()
        self.resnets, self.attentions = nn.ModuleList(), nn.ModuleList()
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()

    def add(self, res, transformer=None):
        self.resnets.append(res)
        if transformer is not None:
            self.attentions.append(transformer)

    def rows(self):
        """Pairs (residual block, transformer); where there are fewer transformers, one that changes nothing."""
        return zip_longest(self.resnets, self.attentions, fillvalue=no_attention)


def no_attention(x, context):
    return x


class ResBlock(nn.Module):
    """Two convolutions around the time embedding; a 1x1 convolution on the shortcut where the channels change."""

    def __init__(self, before, after, time_width, groups, eps):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, before, eps=eps)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, after)
        self.norm2 = nn.GroupNorm(groups, after, eps=eps)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x, time):                   # (B, C, H, W), (B, 4 * C_0) -> (B, C', H, W)
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + rearrange(self.time_emb_proj(time), "b c -> b c 1 1")
        h = self.conv2(F.silu(self.norm2(h)))
        return self.conv_shortcut(x) + h


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(x)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, size):
        # To the size of the skip that comes next: not twice the side where an odd side was halved.
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class TimeEmbedding(nn.Module):
    """Timesteps -> one vector per image, after the SiLU that every residual block would apply to it."""

    def __init__(self, sinusoids, width):
        super().__init__()
        self.sinusoids = sinusoids
        self.linear_1 = nn.Linear(sinusoids, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, t, x):                      # t: (B,) or a scalar; x: for its batch, device and type -> (B, width)
        t = torch.as_tensor(t, device=x.device)
        if t.ndim > 1 or t.numel() not in (1, len(x)):
            raise ValueError(f"t has shape {tuple(t.shape)}, expected ({len(x)},) or a single timestep")
        h = sinusoid(t.expand(len(x)), self.sinusoids).to(x.dtype)
        return F.silu(self.linear_2(F.silu(self.linear_1(h))))


def sinusoid(t, width):
    """(...) -> (..., width): cosines, then sines of t at width / 2 frequencies from 1 down to almost 1 / 10000.

    In float32: bfloat16 has 8 bits and could not tell t = 501 from t = 502.
    """
    half = width // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


LAST = {ResBlock: "conv2", Transformer: "proj_out", UNet: "conv_out"}     # the layer whose output is added, or returned


def zero_residuals(unet):
    """Let every residual branch, and the prediction, start at zero: training from scratch is then stable and faster.

    The authors of latent diffusion do it; without, a new UNet has PyTorch's random weights everywhere.
    """
    for module in unet.modules():
        if type(module) in LAST:
            last = getattr(module, LAST[type(module)])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
    return unet


# The names of the original code, still used by single-file checkpoints and, for SDXL, by kohya's LoRA files.
IN_RESBLOCK = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
               "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}


def original_name(name, config):
    """The name of a layer or weight of `UNet(**config)` in the original code: `conv_in.weight` -> `input_blocks.0.0.weight`.

    The original counts through: one block per residual block and one per downsampling; the way up likewise, but there
    the upsampling is a part of the level's last block.
    """
    for ours, theirs in original_blocks(config).items():
        if name.startswith(f"{ours}."):
            rest = name[len(ours) + 1:]
            if ".resnets." in ours:
                part, _, rest = rest.partition(".")
                rest = f"{IN_RESBLOCK[part]}.{rest}" if rest else IN_RESBLOCK[part]
            return f"{theirs}.{rest}"
        if name == ours:
            return theirs
    raise ValueError(f"{name!r} has no name in the original code")


def original_blocks(config):
    """{block of `UNet(**config)`: its name in the original code}"""
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    names = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
             "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
             "mid_block.resnets.1": "middle_block.2", "conv_norm_out": "out.0", "conv_out": "out.2"}
    for level in range(levels):
        first = 1 + level * (layers + 1)
        for i in range(layers):
            names[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{first + i}.0"
            names[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{first + i}.1"
        names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first + layers}.0.op"
        for i in range(layers + 1):
            names[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{first - 1 + i}.0"
            names[f"up_blocks.{level}.attentions.{i}"] = f"output_blocks.{first - 1 + i}.1"
        place = 2 if UP[config["up_block_types"][level]] else 1
        names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{first - 1 + layers}.{place}.conv"
    return names
