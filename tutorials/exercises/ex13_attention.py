"""Exercise 13: attention. About 20 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex13

Vaswani et al. 2017, arXiv:1706.03762, Eq. (1), for each head by itself:

    softmax( q k^T / sqrt(d) ) v

The width D = h d of a token is h heads of width d side by side: head 0 has the first d numbers, head 1 the next d, and so on. N tokens
ask (of the picture), L tokens answer (of the text); every asking token's weights over the L others sum to 1.
"""
import torch
from einops import einsum, rearrange


def attention(q, k, v, heads):
    """(B, N, D), (B, L, D), (B, L, D), int -> (B, N, D)"""
    raise NotImplementedError("ex13: write attention() in tutorials/exercises/ex13_attention.py: split D into heads, (B, h, N, d), "
                              "attend within each head, and put the heads side by side again")
