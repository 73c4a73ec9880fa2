import torch
from einops import rearrange

from .tools import call, randn, same


def slow(q, k, v, heads, scale, over=1, split="b n (h d) -> h b n d"):
    """Attention by loops, of one head and one picture at a time, on (N, d) matrices."""
    q, k, v = (rearrange(x, split, h=heads) for x in (q, k, v))
    outs = [[(q[h, b] @ k[h, b].T * scale).softmax(over) @ v[h, b] for b in range(q.shape[1])] for h in range(heads)]
    back = " -> ".join(reversed(split.split(" -> ")))
    return rearrange(torch.stack([torch.stack(o) for o in outs]), back, h=heads)


def check_attention(attention):
    q, k, v = randn(2, 5, 6, seed=1), randn(2, 4, 6, seed=2), randn(2, 4, 6, seed=3)
    d = 3
    same(call(attention, q, k, torch.ones_like(v), 2), torch.ones_like(q),
         "all values are 1, so the result must be 1: the weights of each of the N tokens must sum to 1 over the L others")
    mixed = lambda x: x.reshape(2, 2, x.shape[1], d)
    jumbled = ((mixed(q) @ mixed(k).transpose(2, 3) * d ** -.5).softmax(-1) @ mixed(v)).reshape(2, 5, 6)
    same(call(attention, q, k, v, 2), slow(q, k, v, 2, d ** -.5),
         "softmax(q k^T / sqrt(d)) v, for each head by itself; heads go back to where they came from", {
        "the scores are not divided by sqrt(d)": slow(q, k, v, 2, 1),
        "d is the width of one head, not of all heads together": slow(q, k, v, 2, 6 ** -.5),
        "divide by the square root of d, not by d": slow(q, k, v, 2, 1 / d),
        "the softmax runs over the asking tokens; each of these needs weights over the others that sum to 1":
            slow(q, k, v, 2, d ** -.5, over=0),
        "this is a single head: split the width": slow(q, k, v, 1, 6 ** -.5),
        "heads are interleaved; head 0 has the first d numbers of a token": slow(q, k, v, 2, d ** -.5, split="b n (d h) -> h b n d"),
        "a reshape to (B, h, N, d) cuts through the tokens: split D into (h, d) first, then swap axes": jumbled})
