"""Exercise 7: weights of timesteps. About 5 minutes, difficulty 1 of 5.     pytest tutorials/exercises -k ex07

In a nearly clean picture the noise is hard to see, and matters little. Hang et al. 2023, arXiv:2303.09556, give such timesteps less
weight; for a network that predicts noise:

    SNR_t = alpha_bar_t / (1 - alpha_bar_t),     weight_t = min(SNR_t, gamma) / SNR_t
"""
import torch


def min_snr_weight(alpha_bar, gamma):
    """(B,) alpha_bar at each picture's t, float -> (B,) weights, at most 1"""
    raise NotImplementedError("ex07: write min_snr_weight() in tutorials/exercises/ex07_min_snr_weight.py: the signal-to-noise "
                              "ratio, then its clamped value divided by itself")
