"""Exercise 16: guidance. About 5 minutes, difficulty 1 of 5.     pytest tutorials/exercises -k ex16

The network predicts the noise twice, without and with the prompt; the way from the one to the other is what the prompt wants. Go further.
Ho & Salimans 2022, arXiv:2207.12598, Eq. (6), write (1 + w) e_cond - w e_uncond; Stable Diffusion's code

    e_uncond + s ( e_cond - e_uncond )

which is the same, with s = 1 + w. Write the second.
"""
import torch


def guide(e_uncond, e_cond, scale):
    """(B, C, H, W), (B, C, H, W), float -> (B, C, H, W)"""
    raise NotImplementedError("ex16: write guide() in tutorials/exercises/ex16_guide.py: from e_uncond, scale times the way to "
                              "e_cond")
