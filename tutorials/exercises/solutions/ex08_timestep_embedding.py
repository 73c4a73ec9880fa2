"""Exercise 8: how a network is told the time. About 15 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex08"""
import math

import torch


def timestep_embedding(t, width):
    """(B,) int64, even int -> (B, width) float32"""
    i = torch.arange(width // 2, dtype=torch.float32)
    frequency = torch.exp(-math.log(10000) * i / (width // 2))
    angle = t.float()[:, None] * frequency                            # (B, width / 2)
    return torch.cat([angle.cos(), angle.sin()], dim=1)
