import math

import torch

from .tools import call, same


def table(times, width, base=10000, divide_by=None, sign=-1):
    half = width // 2
    angles = [[t * base ** (sign * i / (divide_by or half)) for i in range(half)] for t in times]
    return (torch.tensor([[f(a) for a in row] for row in angles], dtype=torch.float32) for f in (math.cos, math.sin))


def check_timestep_embedding(timestep_embedding):
    times, width = [0, 1, 4], 6
    cos, sin = table(times, width)
    joined = lambda **how: torch.cat(list(table(times, width, **how)), dim=1)
    same(call(timestep_embedding, torch.tensor(times), width), joined(),
         "row b must be the cosines, then the sines, of t_b times the frequencies", {
        "sines come first here; the public UNets want the cosines first": torch.cat([sin, cos], dim=1),
        "cosines and sines alternate; all cosines come first, then all sines": torch.stack([cos, sin], dim=2).flatten(1),
        "i is divided by width / 2 - 1; the last frequency must stay a little above 1 / 10000": joined(divide_by=width // 2 - 1),
        "i is divided by width; by width / 2": joined(divide_by=width),
        "the frequencies grow: the exponent has a minus": joined(sign=1),
        "the exponential is of base e; the frequencies are powers of 10000": joined(base=math.e),
    }, rtol=1e-3, atol=2e-3)
    large = torch.cat(list(table([500, 999], 10)), dim=1)
    same(call(timestep_embedding, torch.tensor([500, 999]), 10), large,
         "t is right up to 4, but not 500 and 999, in width 10", rtol=1e-3, atol=1e-3)
    assert call(timestep_embedding, torch.tensor([3]), 10).shape == (1, 10), "one t alone, in width 10, must give (1, 10)"
