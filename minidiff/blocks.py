"""What the UNet is made of, besides attention: residual blocks, sampling, and the embeddings of time and of other numbers."""
import math
from itertools import zip_longest

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn



class Level(nn.Module):
    """The blocks at one resolution, in the lists that the names of the checkpoint ask for."""

    def __init__(self):
        super().__init__()
        self.resnets, self.attentions = nn.ModuleList(), nn.ModuleList()
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()

    def add(self, res, attention=None):
        self.resnets.append(res)
        if attention is not None:
            self.attentions.append(attention)

    def rows(self):
        """Pairs (residual block, attention); where there are fewer attentions, one that changes nothing."""
        return zip_longest(self.resnets, self.attentions, fillvalue=no_attention)


def no_attention(x, context):
    return x


class ResBlock(nn.Module):
    """Two convolutions around the time embedding; a 1x1 convolution on the shortcut where the channels change.

    Args:
        scale_shift: the time scales and shifts the second norm's output; otherwise it is added before that norm.
        sampling: None, "down" or "up": the block halves or doubles the side, of what it computes and of its shortcut.
    """

    def __init__(self, before, after, time_width, groups, eps, scale_shift=False, sampling=None):
        super().__init__()
        self.scale_shift, self.sampling = scale_shift, sampling
        self.norm1 = nn.GroupNorm(groups, before, eps=eps)
        self.conv1 = Conv3x3(before, after)
        self.time_emb_proj = nn.Linear(time_width, 2 * after if scale_shift else after)
        self.norm2 = nn.GroupNorm(groups, after, eps=eps)
        self.conv2 = Conv3x3(after, after)
        self.conv_shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x, time, size=None):        # (B, C, H, W), (B, 4 * C_0) -> (B, C', H, W), or another side
        h = F.silu(self.norm1(x))
        h, x = resized(h, self.sampling, size), resized(x, self.sampling, size)
        h = self.conv1(h)
        time = rearrange(self.time_emb_proj(time), "b c -> b c 1 1")
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + time)
        h = self.conv2(F.silu(h))
        return self.conv_shortcut(x) + h


def resized(x, sampling, size):
    if sampling == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, size=size, mode="nearest") if sampling == "up" else x


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution that keeps the side.

    On a map with fewer positions than channels a CPU's convolution spends its time on rearranging the weights. There the
    same product is made of the patches around all positions, with the weights as they are: up to twice as fast.
    """

    def __init__(self, before, after):
        super().__init__(before, after, 3, padding=1)

    def forward(self, x):
        batch, _, h, w = x.shape
        if x.device.type != "cpu" or batch * h * w >= self.out_channels or not self.weight.is_contiguous():
            return super().forward(x)
        patches = rearrange(F.unfold(x, 3, padding=1), "b k n -> k (b n)")                   # k: 9 values of each channel
        out = torch.addmm(self.bias[:, None], self.weight.flatten(1), patches)
        return rearrange(out, "c (b h w) -> b c h w", b=batch, h=h)


class Downsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, time=None):
        return self.conv(x)


class Upsample(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(self, x, time=None, size=None):
        # To the size of the skip that comes next: not twice the side where an odd side was halved.
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class TimeEmbedding(nn.Module):
    """Sinusoids of the time (B, S), and of what else SDXL is told, -> one vector per picture (B, W)."""

    def __init__(self, sinusoids, width):
        super().__init__()
        self.linear_1 = nn.Linear(sinusoids, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x):
        return self.linear_2(F.silu(self.linear_1(x)))


class ImageTimeEmbedding(nn.Module):
    """Image embedding (B, E) -> what is added to the time embedding (B, W)."""

    def __init__(self, embedding_width, width):
        super().__init__()
        self.image_proj = nn.Linear(embedding_width, width)
        self.image_norm = nn.LayerNorm(width)

    def forward(self, image_embeds):
        return self.image_norm(self.image_proj(image_embeds))


class ImageProjection(nn.Module):
    """Image embedding (B, E) -> the context: `tokens` tokens (B, tokens, D)."""

    def __init__(self, embedding_width, context_width, tokens=32):
        super().__init__()
        self.tokens, self.image_embeds = tokens, nn.Linear(embedding_width, tokens * context_width)
        self.norm = nn.LayerNorm(context_width)

    def forward(self, image_embeds):
        return self.norm(rearrange(self.image_embeds(image_embeds), "b (n d) -> b n d", n=self.tokens))


def batched(t, x):
    """Timesteps as a tensor (B,) on the device of x; they may be one for all pictures."""
    t = torch.as_tensor(t, device=x.device)
    if t.ndim > 1 or t.numel() not in (1, len(x)):
        raise ValueError(f"t has shape {tuple(t.shape)}, expected ({len(x)},) or a single timestep")
    return t.expand(len(x))


def sinusoid(t, width):
    """(...) -> (..., width): cosines, then sines of t at width / 2 frequencies from 1 down to almost 1 / 10000.

    In float32: bfloat16 has 8 bits and could not tell t = 501 from t = 502.
    """
    half = width // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
