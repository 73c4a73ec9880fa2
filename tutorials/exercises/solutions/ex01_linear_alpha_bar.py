"""Exercise 1: the linear schedule. About 10 minutes, difficulty 1 of 5.     pytest tutorials/exercises -k ex01"""
import torch


def linear_alpha_bar(T, beta_start, beta_end):
    """int, float, float -> (T,) float64"""
    betas = torch.linspace(beta_start, beta_end, T, dtype=torch.float64)
    return (1 - betas).cumprod(0)
