"""Exercise 20: training a prior. About 15 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex20

The prior makes CLIP embeddings of pictures by diffusion (Ramesh et al. 2022, arXiv:2204.06125, Sec. 2.2). Two things differ from the
noise loss. Embeddings are whitened first, each number by its mean and standard deviation over the training set (as public priors do);
and the network predicts the clean embedding, not the noise.

    z   = ( e - mean ) / std
    z_t = sqrt(alpha_bar_t) z + sqrt(1 - alpha_bar_t) eps
    loss = mean over all numbers of ( predict(z_t, t) - z )^2
"""
import torch


def prior_loss(predict, e, mean, std, t, eps, alpha_bar):
    """predict((B, E), (B,)) -> (B, E); e (B, E); mean, std (E,); t (B,) int64; eps (B, E); (T,) -> scalar tensor"""
    raise NotImplementedError("ex20: write prior_loss() in tutorials/exercises/ex20_prior_loss.py: whiten, noise, predict, compare "
                              "with the clean whitened embedding")
