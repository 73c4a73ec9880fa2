"""Exercise 3: to noise pictures. About 10 minutes, difficulty 1 of 5.     pytest tutorials/exercises -k ex03

Ho et al. 2020, arXiv:2006.11239, Eq. (4): no need to take t small steps, one jump has the same result.

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps,     eps ~ N(0, I)

Each picture of the batch has its own t. The table alpha_bar may be float64; what comes back is of the dtype of x_0.
"""
import torch


def q_sample(x_0, eps, t, alpha_bar):
    """(B, C, H, W), (B, C, H, W), (B,) int64 in 0 .. T-1, (T,) -> (B, C, H, W)"""
    raise NotImplementedError("ex03: write q_sample() in tutorials/exercises/ex03_q_sample.py: look up alpha_bar for each picture, "
                              "give it the shape (B, 1, 1, 1), and mix x_0 and eps")
