"""Exercise 12: the whole sampler. About 25 minutes, difficulty 4 of 5.     pytest tutorials/exercises -k ex12

From noise x_T to a picture in few steps, by DDIM without fresh noise. The timesteps are multiples of d = T // steps, the largest first:

    t = (steps - 1) d, ..., 2 d, d, 0                 so many that there are exactly `steps` of them
    eps = predict(x_t, t)                             t as the network knows it, not the number of the step
    x_0 = ( x_t - sqrt(1 - alpha_bar_t) eps ) / sqrt(alpha_bar_t)
    x at the next t = sqrt(alpha_bar_next) x_0 + sqrt(1 - alpha_bar_next) eps

After t = 0 comes the picture itself: there alpha_bar_next is 1. Sampling needs no gradients, and keeps none.
"""
import torch


def sample_ddim(predict, x_T, alpha_bar, steps):
    """predict(x (B, C, H, W), t int) -> eps (B, C, H, W); x_T (B, C, H, W); (T,); int up to T -> (B, C, H, W)"""
    raise NotImplementedError("ex12: write sample_ddim() in tutorials/exercises/ex12_sample_ddim.py: the list of timesteps, a loop "
                              "of DDIM steps over them, all under torch.no_grad()")
