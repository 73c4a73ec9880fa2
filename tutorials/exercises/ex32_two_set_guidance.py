"""Exercise 32: guidance between two sets of conditions. About 5 minutes, difficulty 1 of 5.     pytest tutorials/exercises -k ex32

Composer (Huang et al. 2023, arXiv:2302.09778, Eq. (3)) guides not from nothing to a prompt but from one set of conditions, c_1, to
another, c_2:

    w predict(x_t, t, c_2) + (1 - w) predict(x_t, t, c_1)

What only c_2 has is emphasised by w, what only c_1 has is suppressed, and what both have acts as it is. A set is a dict, such as
{"sketch": tensor, "caption": tensor}; a condition that is not in it is absent.
"""
import torch


def two_set_guidance(predict, x_t, t, c_1, c_2, w):
    """predict(x_t (B, C, h, w), t (B,), dict) -> (B, C, h, w); x_t; t; dict; dict; float -> (B, C, h, w)"""
    raise NotImplementedError("ex32: write two_set_guidance() in tutorials/exercises/ex32_two_set_guidance.py: predict under each of "
                              "the two sets, and mix the predictions with w and 1 - w")
