"""Exercise 5: what a velocity means. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex05

Some networks (Stable Diffusion 2) predict neither noise nor picture, but a mixture. Salimans & Ho 2022, arXiv:2202.00512, Sec. 4:

    v   = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0
    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps

Given x_t and v, find x_0 and eps. Both are sums, without any division: (x_t, v) is (x_0, eps), rotated.
"""
import torch


def from_v(x_t, v, t, alpha_bar):
    """(B, C, H, W), (B, C, H, W), (B,) int64 in 0 .. T-1, (T,) -> (x_0, eps), (B, C, H, W) each"""
    raise NotImplementedError("ex05: write from_v() in tutorials/exercises/ex05_from_v.py: two equations, solved for x_0 and eps; "
                              "return both")
