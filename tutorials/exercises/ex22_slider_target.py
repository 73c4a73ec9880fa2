"""Exercise 22: what a Concept Slider learns. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex22

A slider for age makes "a person" older where its scale is 1, and nothing else. It learns to predict, under "a person", what the frozen
model says for "a person" plus eta times the way from "young" to "old": said once for each concept p that must stay as it is ("with
glasses", "without glasses"), and added up. Gandikota et al. 2024, arXiv:2311.12092, Eq. (8); with a single p, Eq. (7):

    e_t + eta sum over p of ( e_pos_p - e_neg_p )

This is a target, something to get closer to: a constant, through which no gradient flows.
"""
import torch


def slider_target(e_t, e_pos, e_neg, eta):
    """(B, C, h, w), (P, B, C, h, w), (P, B, C, h, w), float -> (B, C, h, w), without gradient"""
    raise NotImplementedError("ex22: write slider_target() in tutorials/exercises/ex22_slider_target.py: e_t plus eta times the sum "
                              "of the differences over p, detached")
