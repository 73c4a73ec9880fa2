"""Exercise 4: the picture that a noise prediction means. About 5 minutes, difficulty 1 of 5.     pytest tutorials/exercises -k ex04

A network that predicts the noise has thereby said what the picture is: solve Ho et al., arXiv:2006.11239, Eq. (4),

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps

for x_0.
"""
import torch


def x0_from_eps(x_t, eps, t, alpha_bar):
    """(B, C, H, W), (B, C, H, W), (B,) int64 in 0 .. T-1, (T,) -> (B, C, H, W)"""
    raise NotImplementedError("ex04: write x0_from_eps() in tutorials/exercises/ex04_x0_from_eps.py: the equation above, solved for "
                              "x_0")
