"""Exercise 9: one step of DDPM. About 20 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex09"""
import torch


def posterior_step(x_t, x_0, t, alpha_bar, z):
    """(B, C, H, W), (B, C, H, W), int in 0 .. T-1, (T,), (B, C, H, W) -> (B, C, H, W)"""
    a, s = alpha_bar[t], alpha_bar[t - 1] if t > 0 else torch.ones_like(alpha_bar[0])
    beta = 1 - a / s
    mean = (s.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - s) * x_t) / (1 - a)
    variance = (1 - s) / (1 - a) * beta
    return mean + variance.sqrt() * z
