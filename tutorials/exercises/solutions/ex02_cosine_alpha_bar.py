"""Exercise 2: the cosine schedule. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex02"""
import math

import torch


def cosine_alpha_bar(T, s=0.008):
    """int, float -> (T,) float64"""
    t = torch.arange(T + 1, dtype=torch.float64)
    f = ((t / T + s) / (1 + s) * math.pi / 2).cos() ** 2
    return f[1:] / f[0]
