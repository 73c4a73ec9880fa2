"""Exercise 6: the loss. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex06

The network guesses the noise; each picture's guess is as bad as its mean squared error, and pictures may count differently:

    loss = mean over b of  weight_b * ( mean over C, H, W of (eps_hat_b - eps_b)^2 )

With all weights 1 this is L_simple of Ho et al. 2020, arXiv:2006.11239, Eq. (14).
"""
import torch


def noise_loss(eps_hat, eps, weight):
    """(B, C, H, W), (B, C, H, W), (B,) -> scalar tensor, with a gradient to eps_hat"""
    raise NotImplementedError("ex06: write noise_loss() in tutorials/exercises/ex06_noise_loss.py: an error for each picture, shape "
                              "(B,), then the mean of weight times error")
