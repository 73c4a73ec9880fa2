"""Exercise 31: the colours of a picture. About 25 minutes, difficulty 4 of 5.     pytest tutorials/exercises -k ex31"""
import torch
import torch.nn.functional as F


def palette(lab, colors, sigma):
    """pixels (B, N, 3) in Lab, (K, 3) in Lab, float -> (B, K), rows sum to 1"""
    nearest = torch.cdist(lab, colors).argmin(dim=-1)                                       # (B, N)
    share = F.one_hot(nearest, len(colors)).to(lab.dtype).mean(dim=1)                       # (B, K)
    kernel = torch.exp(-torch.cdist(colors, colors).square() / (2 * sigma ** 2))
    return share @ (kernel / kernel.sum(dim=0)).T
