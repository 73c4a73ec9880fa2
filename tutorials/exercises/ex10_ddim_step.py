"""Exercise 10: one step of DDIM. About 20 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex10

Song et al. 2021, arXiv:2010.02502, Eq. (12), (16), for a step of any length, from alpha_bar a to alpha_bar s (their alpha):

    x_0   = ( x_t - sqrt(1 - a) eps ) / sqrt(a)                                 what the prediction eps says
    sigma = eta sqrt( (1 - s) / (1 - a) ) sqrt( 1 - a / s )                     0: no fresh noise; eta 1: as much as DDPM
    x_s   = sqrt(s) x_0 + sqrt(1 - s - sigma^2) eps + sigma z
"""
import torch


def ddim_step(x_t, eps, a, s, eta, z):
    """(B, C, H, W), (B, C, H, W), floats a < s <= 1, float in 0 .. 1, (B, C, H, W) standard normal -> (B, C, H, W)"""
    raise NotImplementedError("ex10: write ddim_step() in tutorials/exercises/ex10_ddim_step.py: x_0, sigma, then the sum of three "
                              "parts")
