"""Exercise 35: to edit one part of a picture. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex35

Inside a mask M sampling does what it likes; outside, before each step, the latents are replaced by those of the given picture z, at the
noise level of that step. Blended Latent Diffusion (Avrahami et al. 2023, arXiv:2206.02779); CLiC, arXiv:2311.17083, Eq. (6):

    x' = M x_t + (1 - M) z_t,     z_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) eps

After the last step t is -1, and z_t is z itself: what is outside comes back exactly. M is 0 .. 1 and may be in between at its border.
"""
import torch


def blend_latents(x_t, z, M, t, alpha_bar, eps):
    """(B, C, h, w), (B, C, h, w), (B, 1, h, w), int in -1 .. T-1, (T,), (B, C, h, w) -> (B, C, h, w)"""
    raise NotImplementedError("ex35: write blend_latents() in tutorials/exercises/ex35_blend_latents.py: noise z to the level of t "
                              "(none for t = -1), and mix it with x_t by the mask")
