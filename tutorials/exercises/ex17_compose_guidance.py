"""Exercise 17: several prompts, and negative ones. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex17

Each prompt has its own way from the prediction without a prompt; ways add up. Liu et al. 2022, arXiv:2206.01714:

    e_uncond + sum over i of w_i ( e_i - e_uncond )

A negative weight goes away from a prompt: that is one kind of negative prompt. (The other kind puts it in the place of e_uncond.)
"""
import torch


def compose_guidance(e_uncond, e_conds, weights):
    """(B, C, H, W), (n, B, C, H, W), (n,) -> (B, C, H, W)"""
    raise NotImplementedError("ex17: write compose_guidance() in tutorials/exercises/ex17_compose_guidance.py: from e_uncond, the "
                              "sum of the weighted ways to each of e_conds")
