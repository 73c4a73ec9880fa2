"""Exercise 23: a low-rank change of a layer. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex23

W is frozen. Beside it there is a narrow way, down to r numbers by A and up again by B, and only that is trained (Hu et al. 2021,
arXiv:2106.09685, Sec. 4.1). A slider multiplies it by its scale:

    y = W x + scale (alpha / r) B A x

for a row x at a time; torch's Linear layers have x @ W.T for W x.
"""
import torch


def lora_forward(x, W, A, B, alpha, scale):
    """(N, d_in), (d_out, d_in), (r, d_in), (d_out, r), float, float -> (N, d_out)"""
    raise NotImplementedError("ex23: write lora_forward() in tutorials/exercises/ex23_lora_forward.py: the frozen layer, plus scale "
                              "* alpha / r times the way through A and B")
