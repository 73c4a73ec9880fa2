"""The autoencoder of latent diffusion: AutoencoderKL. Rombach et al., CVPR 2022, arXiv:2112.10752v2, Sec. 3.1.

An image becomes a small grid of latents, and back. Each level halves the side:

    image (B, 3, H, W) -> patches -> conv_in -> level, level, ... -> middle -> mean, logvar (B, C, H/f, W/f)
    latents (B, C, H/f, W/f) -> conv_in -> middle -> level, level, ... -> conv_out -> patches -> image

Images are in [-1, 1]. The scaling factor that brings latents to unit variance (0.18215 in SD) is NOT applied here;
it is the pipeline's business and waits in `vae.config["scaling_factor"]`.

The blocks are those of MoVQ (movq.py) too. Its decoder has another kind of norm, which looks at the latents; so every
block is told how to make a norm, `norm(channels)`, and hands on to its norms whatever comes after x: here nothing.

Modules carry the names of diffusers, so its checkpoints load as they are; older names are renamed by `modern_names`.
"""
import re
from functools import partial
from itertools import zip_longest

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from . import devices
from .attention import Attention
from .checkpoints import arguments, from_folder, rename

EPS = 1e-6                                        # of every norm in here; the UNet's are 1e-5


class VAE(nn.Module):
    """AutoencoderKL.

    Args: named as in config.json, with the defaults of diffusers. One needs care, one is new:
        norm_num_groups: to train on a CPU choose groups of 16 channels or more: with fewer, PyTorch's kernel for
            channels_last takes 3 to 18 times as long in bfloat16.
        patch_size: p x p pixels of the image become p * p channels before the first convolution, and back after the
            last. 1 in public checkpoints; 2 makes a small autoencoder about four times as fast.
    """

    # What a config may also say, and the only value it may have here.
    ONLY = {"_class_name": "AutoencoderKL", "act_fn": "silu", "use_quant_conv": True, "use_post_quant_conv": True,
            "shift_factor": None, "latents_mean": None, "latents_std": None}

    def __init__(self, in_channels=3, out_channels=3, block_out_channels=(64,), layers_per_block=1, latent_channels=4,
                 norm_num_groups=32, scaling_factor=0.18215, mid_block_add_attention=True, patch_size=1):
        super().__init__()
        channels, patch = list(block_out_channels), patch_size ** 2
        self.config = {"_class_name": "AutoencoderKL", "in_channels": in_channels, "out_channels": out_channels,
                       "block_out_channels": channels, "layers_per_block": layers_per_block,
                       "latent_channels": latent_channels, "norm_num_groups": norm_num_groups, "act_fn": "silu",
                       "down_block_types": ["DownEncoderBlock2D"] * len(channels),
                       "up_block_types": ["UpDecoderBlock2D"] * len(channels), "scaling_factor": scaling_factor,
                       "mid_block_add_attention": mid_block_add_attention, "patch_size": patch_size}
        shared = dict(layers=layers_per_block, norm=partial(nn.GroupNorm, norm_num_groups, eps=EPS),
                      attends=[False] * len(channels), middle_attends=mid_block_add_attention)
        self.encoder = Encoder(in_channels * patch, channels, 2 * latent_channels, **shared)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        self.decoder = Decoder(latent_channels, channels[::-1], out_channels * patch, **shared)

    def encode(self, image):
        """(B, 3, H, W) in [-1, 1] -> mean, logvar of the latents, (B, C, H/f, W/f) each."""
        p = self.config["patch_size"]
        if image.shape[-2] % p or image.shape[-1] % p:
            raise ValueError(f"image is {image.shape[-2]} x {image.shape[-1]}, expected multiples of {p}; resize it")
        patches = rearrange(image, "b c (h p) (w q) -> b (c p q) h w", p=p, q=p)
        with devices.products(patches):
            mean, logvar = self.quant_conv(self.encoder(patches)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)        # keeps exp(logvar) finite

    def decode(self, z):
        """Latents (B, C, h, w) -> image (B, 3, h * f, w * f), roughly in [-1, 1]; not clamped."""
        p = self.config["patch_size"]
        with devices.products(z):
            patches = self.decoder(self.post_quant_conv(z))
        return rearrange(patches, "b (c p q) h w -> b c (h p) (w q)", p=p, q=p)

    def forward(self, image, generator=None):
        """Image -> reconstruction, mean, logvar, through one sample of the latents: what training needs."""
        mean, logvar = self.encode(image)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return self.decode(mean + (0.5 * logvar).exp() * noise), mean, logvar

    @classmethod
    def from_config(cls, config):
        """Build from the dict in config.json, random weights. ValueError for what this class cannot be."""
        for key, only in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            if set(config.get(key, [only])) != {only}:
                raise ValueError(f"{key} is {config[key]!r}; VAE supports only {only!r}")
        return cls(**arguments(cls, config))

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None, variant=None):
        """Load config.json and the weights in `folder`, frozen and in eval mode; CheckpointError if they do not fit."""
        return from_folder(cls.from_config, folder, device, dtype, fix=modern_names, variant=variant)


class Encoder(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, H/f, W/f), f = 2 ** (number of levels - 1)

    Args:
        channels, attends: of each level, fine to coarse: its channels, and whether attention follows every residual
            block.
        layers: residual blocks per level.
        norm: norm(channels) makes a normalisation.
        middle_attends: whether there is attention in the middle.
    """

    def __init__(self, channels_in, channels, channels_out, layers, norm, attends, middle_attends):
        super().__init__()
        self.conv_in = nn.Conv2d(channels_in, channels[0], 3, padding=1)
        befores = [channels[0], *channels[:-1]]
        self.down_blocks = nn.ModuleList(
            Level(before, after, layers, norm, layers if attends[i] else 0, downsample=i < len(channels) - 1)
            for i, (before, after) in enumerate(zip(befores, channels)))
        self.mid_block = Level(channels[-1], channels[-1], 2, norm, attentions=1 if middle_attends else 0)
        self.conv_norm_out = norm(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], channels_out, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in (*self.down_blocks, self.mid_block):
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """(B, C_in, h, w) -> (B, C_out, h * f, w * f). Args as for `Encoder`, but the levels run from coarse to fine."""

    def __init__(self, channels_in, channels, channels_out, layers, norm, attends, middle_attends):
        super().__init__()
        self.conv_in = nn.Conv2d(channels_in, channels[0], 3, padding=1)
        self.mid_block = Level(channels[0], channels[0], 2, norm, attentions=1 if middle_attends else 0)
        befores, layers = [channels[0], *channels[:-1]], layers + 1      # one block more than the encoder
        self.up_blocks = nn.ModuleList(
            Level(before, after, layers, norm, layers if attends[i] else 0, upsample=i < len(channels) - 1)
            for i, (before, after) in enumerate(zip(befores, channels)))
        self.conv_norm_out = norm(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], channels_out, 3, padding=1)

    def forward(self, x, *z):
        x = self.conv_in(x)
        for level in (self.mid_block, *self.up_blocks):
            x = level(x, *z)
        return self.conv_out(F.silu(self.conv_norm_out(x, *z)))


class Level(nn.Module):
    """Residual blocks at one resolution, each of the first `attentions` of them with attention behind it; then half or
    twice that resolution, or the same."""

    def __init__(self, before, after, layers, norm, attentions, downsample=False, upsample=False):
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(before if i == 0 else after, after, norm) for i in range(layers))
        self.attentions = nn.ModuleList(PixelAttention(after, norm) for _ in range(attentions))
        self.downsamplers = nn.ModuleList([Downsample(after)] if downsample else [])
        self.upsamplers = nn.ModuleList([Upsample(after)] if upsample else [])

    def forward(self, x, *z):
        for res, attention in zip_longest(self.resnets, self.attentions):
            x = res(x, *z)
            x = attention(x, *z) if attention is not None else x
        for resize in (*self.downsamplers, *self.upsamplers):
            x = resize(x)
        return x


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 convolution on x where the channels change."""

    def __init__(self, before, after, norm):
        super().__init__()
        self.norm1 = norm(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.norm2 = norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x, *z):
        h = self.conv1(F.silu(self.norm1(x, *z)))
        h = self.conv2(F.silu(self.norm2(h, *z)))
        return self.conv_shortcut(x) + h


class PixelAttention(Attention):
    """Self-attention of all positions of a feature map, one head, added to its input."""

    def __init__(self, channels, norm):
        super().__init__(channels, heads=1, bias=True)
        norm = norm(channels)
        self.norm_name = "group_norm" if isinstance(norm, nn.GroupNorm) else "spatial_norm"     # published keys
        self.add_module(self.norm_name, norm)

    def forward(self, x, *z):                     # (B, C, H, W) -> (B, C, H, W)
        h = getattr(self, self.norm_name)(x, *z)
        tokens = rearrange(h, "b c h w -> b (h w) c")
        return x + rearrange(super().forward(tokens), "b (h w) c -> b c h w", h=x.shape[-2])


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):                         # pads right and bottom only; padding=1 would shift the latents
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


# Attention names of diffusers before 0.15; the published float32 VAEs of SD 1 and 2 still have them.
LEGACY = [(r"\.query\.", ".to_q."), (r"\.key\.", ".to_k."), (r"\.value\.", ".to_v."), (r"\.proj_attn\.", ".to_out.0.")]

# Names of the original LDM code (single-file checkpoints, without their prefix `first_stage_model.`).
LDM = [(r"\.mid\.block_1\.", ".mid_block.resnets.0."), (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
       (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
       (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
       (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
       (r"\.(down|up)\.(\d+)\.block\.", r".\1_blocks.\2.resnets."),
       (r"\.(down|up)\.(\d+)\.(down|up)sample\.", r".\1_blocks.\2.\3samplers.0."),
       (r"\.nin_shortcut\.", ".conv_shortcut."), (r"\.norm_out\.", ".conv_norm_out.")]


def modern_names(tensors):
    """{key: tensor} of a VAE in any published layout -> the same with the names of `VAE`."""
    ups = [int(m[1]) for key in tensors if (m := re.match(r"decoder\.up\.(\d+)\.", key))]
    if ups:                                       # LDM counts the decoder's levels from the fine end
        tensors = rename(tensors, [(r"^(decoder\.up\.)(\d+)", lambda m: f"{m[1]}{max(ups) - int(m[2])}"), *LDM])
    tensors = rename(tensors, LEGACY)
    # LDM writes the attention's Linear layers as 1x1 convolutions.
    return {key: t[:, :, 0, 0] if ".attentions." in key and t.shape[2:] == (1, 1) else t for key, t in tensors.items()}
