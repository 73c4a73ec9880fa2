"""Exercise 11: one step back to the noise. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex11

DDIM without fresh noise can be run backwards (Song et al. 2021, arXiv:2010.02502, Sec. 4.3), which is how a given picture is edited:
from x_s, where alpha_bar is s, to the noisier x_t, where alpha_bar is a < s. The prediction eps is taken to be the same at both.

    x_0 = ( x_s - sqrt(1 - s) eps ) / sqrt(s),     x_t = sqrt(a) x_0 + sqrt(1 - a) eps

Nothing is drawn: this is not q_sample with new noise, which would lead to some picture's noise, but not to this one's.
"""
import torch


def ddim_invert_step(x_s, eps, s, a):
    """(B, C, H, W), (B, C, H, W), floats 0 < a < s <= 1 -> (B, C, H, W)"""
    raise NotImplementedError("ex11: write ddim_invert_step() in tutorials/exercises/ex11_ddim_invert_step.py: x_0 at s, then x_t at "
                              "a")
