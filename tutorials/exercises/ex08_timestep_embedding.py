"""Exercise 8: how a network is told the time. About 15 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex08

A number such as t = 501 becomes a vector of cosines and sines, slow ones and fast ones (Vaswani et al. 2017, arXiv:1706.03762,
Sec. 3.5; here cosines come first, as in the public UNets):

    frequency_i = 10000 ^ ( -i / (width / 2) ),     i = 0 .. width / 2 - 1
    [ cos(t frequency_0), cos(t frequency_1), ..., sin(t frequency_0), sin(t frequency_1), ... ]
"""
import math

import torch


def timestep_embedding(t, width):
    """(B,) int64, even int -> (B, width) float32"""
    raise NotImplementedError("ex08: write timestep_embedding() in tutorials/exercises/ex08_timestep_embedding.py: width / 2 "
                              "frequencies, angles (B, width / 2), then all cosines and after them all sines")
