"""Exercise 21: sampling from a prior. About 25 minutes, difficulty 4 of 5.     pytest tutorials/exercises -k ex21"""
import torch


def prior_step(z_t, f_uncond, f_cond, scale, t, u, alpha_bar, limit, noise):
    """(B, E), (B, E), (B, E), float, ints u < t, (T,), float, (B, E) -> (B, E)"""
    z = (f_uncond + scale * (f_cond - f_uncond)).clamp(-limit, limit)
    a, s = alpha_bar[t], alpha_bar[u] if u >= 0 else torch.ones_like(alpha_bar[0])
    beta = 1 - a / s
    mean = (s.sqrt() * beta * z + (1 - beta).sqrt() * (1 - s) * z_t) / (1 - a)
    return mean + ((1 - s) / (1 - a) * beta).sqrt() * noise
