"""Exercise 33: a concept and a little of what is around it. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex33

CLiC (Safaee et al. 2024, arXiv:2311.17083) learns the ornament of a mug, and where on a mug it belongs: errors count everywhere, but
less outside the mask M. Eq. (2) and (3):

    M_soft = alpha + (1 - alpha) M
    loss_b = weighted mean over all entries of (e - eps)^2, with the weights M_soft^2

squared, since the paper multiplies the difference by M_soft before it is squared. The weighted mean divides by the sum of the weights of
all entries, in all C channels, so that a large mask does not mean a large loss.
"""
import torch


def context_loss(e, eps, M, alpha):
    """(B, C, h, w), (B, C, h, w), (B, 1, h, w) in 0 .. 1, float -> (B,)"""
    raise NotImplementedError("ex33: write context_loss() in tutorials/exercises/ex33_context_loss.py: the soft mask, its square as "
                              "weights, and a weighted mean for each picture")
