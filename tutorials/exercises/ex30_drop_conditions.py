"""Exercise 30: which conditions a picture is told. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex30

Composer (Huang et al. 2023, arXiv:2302.09778) learns to draw from any subset of its conditions: caption, palette, sketch, and so on. In
training each picture of a batch keeps a subset of its own. With u and u_each uniform in [0, 1):

    u < 0.1             the picture loses all conditions
    0.1 <= u < 0.2      it keeps all
    else                it loses condition k if u_each[k] < rates[k], whatever happens to the others
"""
import torch


def drop_conditions(u, u_each, rates):
    """(B,), (B, n), (n,) -> (B, n) bool, True where the condition is kept"""
    raise NotImplementedError("ex30: write drop_conditions() in tutorials/exercises/ex30_drop_conditions.py: what each condition "
                              "would do by itself, then the pictures that keep all, then those that lose all")
