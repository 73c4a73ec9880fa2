"""Exercise 2: the cosine schedule. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex02

The linear schedule destroys small pictures too early. Nichol & Dhariwal 2021, arXiv:2102.09672, Eq. (17), say at once what is left:

    alpha_bar_t = f(t) / f(0),     f(t) = cos( (t / T + s) / (1 + s) * pi / 2 ) ^ 2

for t = 1 .. T, which are the entries 0 .. T - 1. (They go on to keep each beta below 0.999; not here.)
"""
import math

import torch


def cosine_alpha_bar(T, s=0.008):
    """int, float -> (T,) float64"""
    raise NotImplementedError("ex02: write cosine_alpha_bar() in tutorials/exercises/ex02_cosine_alpha_bar.py: f(t) / f(0) for t = 1 "
                              ".. T")
