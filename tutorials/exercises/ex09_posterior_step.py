"""Exercise 9: one step of DDPM. About 20 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex09

The step from x_t to x_{t-1}, for a network that has predicted x_0: a draw from q(x_{t-1} | x_t, x_0). Ho et al. 2020,
arXiv:2006.11239, Eq. (6), (7), with a = alpha_bar_t, s = alpha_bar_{t-1}, beta = 1 - a / s:

    mean     = ( sqrt(s) beta x_0 + sqrt(1 - beta) (1 - s) x_t ) / (1 - a)
    variance = (1 - s) / (1 - a) beta
    x_{t-1}  = mean + sqrt(variance) z,     z ~ N(0, I)

Before the first step there is no noise: at t = 0, s is 1, so that the step ends exactly at x_0.
"""
import torch


def posterior_step(x_t, x_0, t, alpha_bar, z):
    """(B, C, H, W), (B, C, H, W), int in 0 .. T-1, (T,), (B, C, H, W) -> (B, C, H, W)"""
    raise NotImplementedError("ex09: write posterior_step() in tutorials/exercises/ex09_posterior_step.py: a and s from the table (s "
                              "is 1 at t = 0), then mean and variance, then the draw")
