"""MoVQ, the autoencoder of Kandinsky. Zheng et al., "MoVQ: Modulating Quantized Vectors for High-Fidelity Image
Generation", NeurIPS 2022, arXiv:2209.09002.

An autoencoder with a codebook (van den Oord et al., arXiv:1711.00937) whose decoder sees the latents again at every
norm, so that equal neighbours need not come out equal:

    image (B, 3, H, W) -> encoder -> latents z (B, C, h, w) -> nearest codes -> decoder, every norm of it looks at z -> image

Kandinsky's diffusion makes latents and leaves the codebook out: `decode` does not quantise. Images are in [-1, 1], there
is no scaling factor. Modules carry the names of diffusers (VQModel), so its checkpoints load without renaming.
"""
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from . import devices
from .checkpoints import arguments, from_folder
from .vae import EPS, Decoder, Encoder

# Block types by the names in config.json: does attention follow each residual block of the level?
DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}


class MoVQ(nn.Module):
    """The autoencoder. Args: named as in config.json, with the defaults of diffusers.

        latent_channels: C; vq_embed_dim, the width of a code, is the same or None.
        num_vq_embeddings: number of codes.
        norm_num_groups: of the encoder's norms; those of the decoder have 32 groups whatever it says.
    """

    # What a config may also say, and the only value it may have here.
    ONLY = {"_class_name": "VQModel", "act_fn": "silu", "norm_type": "spatial", "lookup_from_codebook": False}

    def __init__(self, in_channels=3, out_channels=3, block_out_channels=(64,), down_block_types=("DownEncoderBlock2D",),
                 up_block_types=("UpDecoderBlock2D",), layers_per_block=1, latent_channels=3, vq_embed_dim=None,
                 num_vq_embeddings=256, norm_num_groups=32, mid_block_add_attention=True):
        super().__init__()
        if vq_embed_dim not in (None, latent_channels):
            raise ValueError(f"vq_embed_dim is {vq_embed_dim}, expected latent_channels, {latent_channels}: "
                             "the norms of the decoder look at what is quantised")
        channels, C = list(block_out_channels), latent_channels
        self.config = {"_class_name": "VQModel", "in_channels": in_channels, "out_channels": out_channels,
                       "block_out_channels": channels, "down_block_types": list(down_block_types),
                       "up_block_types": list(up_block_types), "layers_per_block": layers_per_block,
                       "latent_channels": C, "vq_embed_dim": C, "num_vq_embeddings": num_vq_embeddings,
                       "norm_num_groups": norm_num_groups, "norm_type": "spatial", "act_fn": "silu",
                       "mid_block_add_attention": mid_block_add_attention}
        shared = dict(layers=layers_per_block, middle_attends=mid_block_add_attention)
        self.encoder = Encoder(in_channels, channels, C, norm=partial(nn.GroupNorm, norm_num_groups, eps=EPS),
                               attends=attends(self.config, "down_block_types", DOWN), **shared)
        self.quant_conv = nn.Conv2d(C, C, 1)
        self.quantize = Codebook(num_vq_embeddings, C)
        self.post_quant_conv = nn.Conv2d(C, C, 1)
        self.decoder = Decoder(C, channels[::-1], out_channels, norm=partial(SpatialNorm, latents=C),
                               attends=attends(self.config, "up_block_types", UP), **shared)

    def encode(self, image):
        """(B, 3, H, W) in [-1, 1] -> latents (B, C, H/f, W/f), not quantised: `movq.quantize(z)` does that."""
        with devices.products(image):
            return self.quant_conv(self.encoder(image))

    def decode(self, z):
        """Latents (B, C, h, w) -> image (B, 3, h * f, w * f), roughly in [-1, 1]; not clamped."""
        with devices.products(z):
            return self.decoder(self.post_quant_conv(z), z)      # the norms see z as it came

    @classmethod
    def from_config(cls, config):
        """Build from the dict in config.json, random weights. ValueError for what this class cannot be."""
        config = {"norm_type": "group", **config}                # what a config.json that does not say means
        return cls(**arguments(cls, config))

    @classmethod
    def from_pretrained(cls, folder, device=None, dtype=None, variant=None):
        """Load config.json and the weights in `folder`, frozen and in eval mode; CheckpointError if they do not fit."""
        return from_folder(cls.from_config, folder, device, dtype, variant=variant)


def attends(config, key, types):
    """For each level of `config[key]`, whether it attends. ValueError unless there is one known type per level."""
    if len(config[key]) != len(config["block_out_channels"]):
        raise ValueError(f"{key} has {len(config[key])} entries, block_out_channels has {len(config['block_out_channels'])}")
    unknown = [name for name in config[key] if name not in types]
    if unknown:
        raise ValueError(f"{key} has {unknown[0]!r}; MoVQ knows {', '.join(types)}")
    return [types[name] for name in config[key]]


class SpatialNorm(nn.Module):
    """A norm whose scale and shift are read, position by position, from the latents: norm(x) * y(z) + b(z)."""

    def __init__(self, channels, latents):
        super().__init__()
        self.norm_layer = nn.GroupNorm(32, channels, eps=EPS)
        self.conv_y, self.conv_b = nn.Conv2d(latents, channels, 1), nn.Conv2d(latents, channels, 1)

    def forward(self, x, z):                      # (B, C, H, W), latents (B, c, h, w) -> (B, C, H, W)
        y, b = (F.interpolate(conv(z), size=x.shape[-2:], mode="nearest") for conv in (self.conv_y, self.conv_b))
        return self.norm_layer(x) * y + b


class Codebook(nn.Module):
    """Every position of z becomes the nearest code. van den Oord et al., Eq. (1) and (2)."""

    def __init__(self, codes, width):
        super().__init__()
        self.embedding = nn.Embedding(codes, width)

    def forward(self, z):                         # (B, C, h, w) -> (B, C, h, w); no gradient reaches z
        vectors = rearrange(z, "b c h w -> (b h w) c")
        nearest = torch.cdist(vectors, self.embedding.weight).argmin(dim=1)
        return rearrange(self.embedding(nearest), "(b h w) c -> b c h w", b=len(z), h=z.shape[-2])
