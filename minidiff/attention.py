"""Attention, as the UNet and the autoencoder use it. Vaswani et al., arXiv:1706.03762; cross-attention to text:
Rombach et al., "Latent Diffusion Models", CVPR 2022, arXiv:2112.10752v2, Sec. 3.3.

Three things happen here and nowhere else: the keys and values of the text are computed (`Attention.keys_values`,
once per prompt with `TextKV`), the attention maps can be read (`recorded`) or edited (`Attention.control`), and LoRA
finds its Linear layers (`to_q`, `to_k`, `to_v`, `to_out[0]`; named as in diffusers, so that checkpoints need no renaming).
"""
from collections import Counter
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import nn


class Attention(nn.Module):
    """Multi-head attention from the tokens `x` to themselves, or to the tokens of a text.

    Args:
        width: channels of `x`.
        heads: number of heads; must divide `width`.
        context_width: channels of the text; None for self-attention.
        bias: whether queries, keys and values have one (the autoencoder: yes, the UNet: no).

    `control` is the one place to look at attention maps. If it is a function, it gets the maps (B, h, N, L), whose
    rows sum to 1, and what it returns is used in their place. Gradients flow through it.
    """

    def __init__(self, width, heads, context_width=None, bias=False):
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} channels cannot be split into {heads} heads")
        self.heads = heads
        self.is_cross = context_width is not None
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(context_width or width, width, bias=bias)
        self.to_v = nn.Linear(context_width or width, width, bias=bias)
        self.to_out = nn.Sequential(nn.Linear(width, width))     # a list of one: the published key is to_out.0
        self.control = None

    def forward(self, x, context=None):
        """(B, N, C) and context (B, L, D), a `TextKV`, or None to attend to x itself -> (B, N, C)"""
        q = self.split_heads(self.to_q(x))
        k, v = context.of(self) if isinstance(context, TextKV) else self.keys_values(x if context is None else context)
        out = attend(q, k, v, self.control)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))

    def keys_values(self, context):
        """(B, L, D) -> keys and values, (B, h, L, d) each."""
        return self.split_heads(self.to_k(context)), self.split_heads(self.to_v(context))

    def split_heads(self, x):
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)


def attend(q, k, v, control=None, causal=False, mask=None):
    """softmax(q k^T / sqrt(d)) v.   q: (B, h, N, d); k, v: (B, h, L, d) -> (B, h, N, d)

    causal: a query sees only the keys up to its own position.   mask: bool, (N, L) or (B, 1, N, L), True where it sees.

    PyTorch's fused kernel everywhere, with two exceptions: when the maps themselves are needed, and when training in
    half precision on a CPU, where its backward takes 1.4 to 12 times as long as three plain operations do.
    """
    slow = q.device.type == "cpu" and q.dtype != torch.float32 and torch.is_grad_enabled()
    if control is None and not slow:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    scores = einsum(q * q.shape[-1] ** -0.5, k, "b h n d, b h l d -> b h n l")   # scale first: fp16 would overflow
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    maps = scores.softmax(dim=-1)                 # (B, h, N, L): for each position of the image, weights over the text
    if control is not None:
        maps = control(maps)
    return einsum(maps, v, "b h n l, b h l d -> b h n d")


@contextmanager
def recorded(unet):
    """The cross-attention maps of a UNet, while it is used: {name of a layer: (B, N, L)}, means over heads and over calls.

        with recorded(pipe.unet) as maps:
            picture = pipe("a red cat")
        maps["mid_block.attentions.0.transformer_blocks.0.attn2"][1]        # (N, L); row 0 is the half of guidance without a prompt

    All calls must have one B, one N and one L. Gradients flow into the maps. A `control` that a layer has already goes on working,
    and what it returns is what is recorded.
    """
    layers, calls, maps = unet.cross_attentions(), Counter(), {}
    before = {name: layer.control for name, layer in layers.items()}

    def record(name):
        def look(used):                                          # (B, h, N, L)
            used = used if before[name] is None else before[name](used)
            mean, calls[name] = used.float().mean(1), calls[name] + 1
            maps[name] = mean if calls[name] == 1 else maps[name] + (mean - maps[name]) / calls[name]
            return used
        return look
    try:
        for name, layer in layers.items():
            layer.control = record(name)
        yield maps
    finally:
        for name, layer in layers.items():
            layer.control = before[name]


class TextKV:
    """The keys and values of one batch of prompts, for every cross-attention layer of a UNet.

    The text does not change while sampling, so they are computed once per prompt (`unet.text_kv(context)`) and given
    to the UNet in place of the context. They belong to the weights that made them: after a step of training, or
    another scale of a LoRA on `to_k` or `to_v`, make them again. `vector` (B, W), or None, is what the text adds to
    the time embedding, in models that do so.
    """

    def __init__(self, pairs, vector=None):
        self.pairs, self.vector = pairs, vector   # {layer: (k, v)}, (B, h, L, d) each

    def of(self, layer):
        if layer not in self.pairs:
            raise ValueError("these text keys and values were made by another UNet; use this one's text_kv(context)")
        return self.pairs[layer]

    def __getitem__(self, rows):
        """Some of the prompts: `kv[:2]`, or `kv[[0, 0, 1]]` to use the first one twice."""
        vector = None if self.vector is None else self.vector[rows]
        return TextKV({layer: (k[rows], v[rows]) for layer, (k, v) in self.pairs.items()}, vector)

    def __len__(self):
        return next(iter(self.pairs.values()))[0].shape[0] if self.pairs else 0


class AddedKVAttention(Attention):
    """Attention of all positions of a feature map to the text and to themselves, in one softmax, added to their input.

    Of Kandinsky's UNet, after GLIDE (Nichol et al., arXiv:2112.10741). The maps that `control` gets are (B, h, N, L + N).
    """

    def __init__(self, channels, heads, context_width, groups):
        super().__init__(channels, heads, bias=True)
        self.is_cross = True
        self.group_norm = nn.GroupNorm(groups, channels)
        self.add_k_proj, self.add_v_proj = nn.Linear(context_width, channels), nn.Linear(context_width, channels)

    def forward(self, x, context):                # (B, C, H, W), context (B, L, D) or TextKV -> (B, C, H, W)
        tokens = rearrange(self.group_norm(x), "b c h w -> b (h w) c")
        q, own_k, own_v = (self.split_heads(layer(tokens)) for layer in (self.to_q, self.to_k, self.to_v))
        k, v = context.of(self) if isinstance(context, TextKV) else self.keys_values(context)
        out = attend(q, torch.cat([k, own_k], dim=2), torch.cat([v, own_v], dim=2), self.control)    # the text comes first
        return x + rearrange(self.to_out(rearrange(out, "b h n d -> b n (h d)")), "b (h w) c -> b c h w", h=x.shape[-2])

    def keys_values(self, context):
        """(B, L, D) -> keys and values of the text, (B, h, L, d) each."""
        return self.split_heads(self.add_k_proj(context)), self.split_heads(self.add_v_proj(context))


class Transformer(nn.Module):
    """Transformer blocks over the positions of a feature map, added to their input. (B, C, H, W) -> (B, C, H, W)

    Args:
        channels, heads, context_width: see `Attention`.
        groups: of the GroupNorm in front.
        linear: False (SD 1): project by 1x1 convolutions; True (SD 2, SDXL): by Linear layers. The same map, stored
            differently.
        layers: number of blocks.
    """

    def __init__(self, channels, heads, context_width, groups, linear, layers=1):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)     # 1e-6 here, 1e-5 everywhere else in the UNet
        self.linear = linear
        self.proj_in = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context_width) for _ in range(layers))
        self.proj_out = nn.Linear(channels, channels) if linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x, context=None):
        h = self.norm(x) if self.linear else self.proj_in(self.norm(x))
        tokens = rearrange(h, "b c h w -> b (h w) c")            # a view, nothing moves, if x is channels_last
        tokens = self.proj_in(tokens) if self.linear else tokens
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        tokens = self.proj_out(tokens) if self.linear else tokens
        h = rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[-2])
        return x + (h if self.linear else self.proj_out(h))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; a LayerNorm before each and a residual around each."""

    def __init__(self, width, heads, context_width):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads)
        if context_width is not None:
            self.norm2 = nn.LayerNorm(width)
            self.attn2 = Attention(width, heads, context_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x, context=None):           # (B, N, C), context (B, L, D) or TextKV -> (B, N, C)
        x = x + self.attn1(self.norm1(x))
        if hasattr(self, "attn2"):
            x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class FeedForward(nn.Module):
    """GEGLU and a Linear layer, four times as wide inside. Shazeer, arXiv:2002.05202."""

    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))   # keys 0 and 2

    def forward(self, x):
        return self.net(x)


class GEGLU(nn.Module):
    """value * gelu(gate), both linear in x; the gate is the second half. Exact gelu, not the tanh form."""

    def __init__(self, width, inner):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x):
        # Copies: a strided gelu takes a CPU ten times as long, and a strided value keeps all of the projection for backward.
        value, gate = (half.contiguous() for half in self.proj(x).chunk(2, dim=-1))
        return value * F.gelu(gate)
