"""Exercise 1: the linear schedule. About 10 minutes, difficulty 1 of 5.     pytest tutorials/exercises -k ex01

Each step adds a little noise, of variance beta, and leaves 1 - beta of the variance that was there. Ho et al. 2020, arXiv:2006.11239:

    beta_1, ..., beta_T    evenly spaced from beta_start to beta_end, both included         (Sec. 4)
    alpha_bar_t = (1 - beta_1) (1 - beta_2) ... (1 - beta_t)                                (Sec. 2)

The paper counts t = 1 .. T; the tensor counts 0 .. T - 1, so its first entry is alpha_bar_1.
"""
import torch


def linear_alpha_bar(T, beta_start, beta_end):
    """int, float, float -> (T,) float64"""
    raise NotImplementedError("ex01: write linear_alpha_bar() in tutorials/exercises/ex01_linear_alpha_bar.py: make the T betas, "
                              "then the product of 1 - beta up to each of them")
