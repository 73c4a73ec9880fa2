"""Exercise 24: several sliders in one weight. About 15 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex24

Adapters cost time at every step. Once their scales are chosen, they can be added to the weight itself; several simply add up
(Hu et al. 2021, arXiv:2106.09685, Sec. 4.1; Gandikota et al. 2024, arXiv:2311.12092, compose sliders like this):

    W' = W + sum over i of scale_i (alpha_i / r_i) B_i A_i

Models are stored in half precision, which rounds away an update that is small beside W. So the sum is made in float32, and rounded once,
at its end, to W's own dtype. W belongs to the caller, who wants it back unchanged; the merged weight is no longer trained.
"""
import torch


def lora_merge(W, adapters):
    """(d_out, d_in) of any dtype; list of (A (r, d_in), B (d_out, r), alpha, scale), A and B float32 -> (d_out, d_in), dtype of W"""
    raise NotImplementedError("ex24: write lora_merge() in tutorials/exercises/ex24_lora_merge.py: add all updates to W in float32, "
                              "then go back to W's dtype, without gradient")
