"""Exercise 31: the colours of a picture. About 25 minutes, difficulty 4 of 5.     pytest tutorials/exercises -k ex31

Composer (Huang et al. 2023, arXiv:2302.09778) is told colours as a histogram over K named ones, in Lab, where distances are about what
people see. Each pixel counts for the nearest colour; then every colour's share is spread over its neighbours, because a slightly
different red should not be a different palette:

    share_j = part of the pixels whose nearest colour is j
    k_ij    = exp( -d_ij^2 / (2 sigma^2) ) / ( sum over i' of exp( -d_i'j^2 / (2 sigma^2) ) ),     d_ij = | colour_i - colour_j |
    palette_i = sum over j of k_ij share_j

The palette sums to 1. sigma is a distance in Lab, not a number of bins.
"""
import torch
import torch.nn.functional as F


def palette(lab, colors, sigma):
    """pixels (B, N, 3) in Lab, (K, 3) in Lab, float -> (B, K), rows sum to 1"""
    raise NotImplementedError("ex31: write palette() in tutorials/exercises/ex31_palette.py: the nearest colour of each pixel, "
                              "counts of them, and a (K, K) kernel whose columns sum to 1")
