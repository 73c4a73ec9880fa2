"""ex13_attention. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch
import torch.nn.functional as F
from einops import einsum, rearrange


def attend(split="b n (h d) -> b h n d", join="b h n d -> b n (h d)", scale=lambda d, D: d ** -.5, axis=-1, heads_of=lambda h: h,
           weigh=lambda s, axis: s.softmax(axis)):
    def attention(q, k, v, heads):
        width, heads = q.shape[-1], heads_of(heads)
        q, k, v = (rearrange(x, split, h=heads) for x in (q, k, v))
        weights = weigh(einsum(q, k, "b h n d, b h l d -> b h n l") * scale(width // heads, width), axis)
        return rearrange(einsum(weights, v, "b h n l, b h l d -> b h n d"), join)
    return attention


def reshaped(q, k, v, heads):
    cut = lambda x: x.reshape(len(x), heads, x.shape[1], -1)
    weights = (cut(q) @ cut(k).mT * (q.shape[-1] // heads) ** -.5).softmax(-1)
    return (weights @ cut(v)).reshape(q.shape)


WRONG = [
    ("no scale", "not divided by sqrt(d)", attend(scale=lambda d, D: 1)),
    ("sqrt of all heads", "width of one head", attend(scale=lambda d, D: D ** -.5)),
    ("divided by d", "square root of d", attend(scale=lambda d, D: 1 / d)),
    ("softmax over the picture", "must sum to 1", attend(axis=-2)),
    ("one head", "single head", attend(heads_of=lambda h: 1)),
    ("interleaved", "interleaved", attend("b n (d h) -> b h n d", "b h n d -> b n (d h)")),
    ("joined in the wrong way", "heads go back", attend(join="b h n d -> b n (d h)")),
    ("reshape", "cuts through the tokens", reshaped),
    ("sigmoid", "must sum to 1", attend(weigh=lambda s, axis: s.sigmoid())),
    ("no softmax", "must sum to 1", lambda q, k, v, heads: (q @ k.mT / 3 ** .5) @ v),
    ("q and k swapped", "shape", lambda q, k, v, heads: attend()(k, q, q, heads)),
    ("multiplied by sqrt(d)", "for each head by itself", attend(scale=lambda d, D: d ** .5)),
]


def attention_by_chunks(q, k, v, heads):
    parts = zip(q.chunk(heads, 2), k.chunk(heads, 2), v.chunk(heads, 2))
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts], dim=2)


RIGHT = [attention_by_chunks]
