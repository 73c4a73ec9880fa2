"""Exercise 18: from the encoder to the UNet. About 5 minutes, difficulty 1 of 5.     pytest tutorials/exercises -k ex18

An autoencoder's encoder says for each number of the latents a mean and the logarithm of a variance (Kingma & Welling 2013,
arXiv:1312.6114, Sec. 2.4). The UNet gets a draw, scaled by a constant so that latents have about unit variance (Rombach et al. 2022,
arXiv:2112.10752):

    z = factor ( mean + exp(logvar / 2) noise )

Drawn like this, and not by torch.normal, the gradient reaches mean and logvar.
"""
import torch


def sample_latents(mean, logvar, noise, factor):
    """(B, C, h, w), (B, C, h, w), (B, C, h, w) standard normal, float -> (B, C, h, w)"""
    raise NotImplementedError("ex18: write sample_latents() in tutorials/exercises/ex18_sample_latents.py: mean plus standard "
                              "deviation times noise, then the factor")
