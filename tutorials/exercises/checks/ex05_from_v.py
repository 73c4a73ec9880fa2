import torch

from .tools import call, numbers, randn, same


def check_from_v(from_v):
    alpha_bar, t = numbers(.95, .9, .7, .5, .4, .3, .05), torch.tensor([6, 1, 4])
    x_0, eps = randn(3, 2, 4, 3, seed=1), randn(3, 2, 4, 3, seed=2)             # B = W: a wrong axis raises no error
    a = alpha_bar[t].reshape(3, 1, 1, 1)
    c, s, wide = a.sqrt(), (1 - a).sqrt(), alpha_bar[t]
    x_t, v = c * x_0 + s * eps, c * eps - s * x_0
    got = call(from_v, x_t, v, t, alpha_bar)
    assert isinstance(got, (tuple, list)) and len(got) == 2, "two tensors must come back, x_0 and eps: return x_0, eps"
    same(got[0], x_0,
         "x_t and v were made from an x_0, which must come back first. Multiply the equations with the two roots, and subtract", {
        "x_0 and eps are in the wrong order": eps,
        "the sign is wrong in x_0: v has a minus in front of x_0": c * x_t + s * v,
        "the square roots are missing in x_0": a * x_t - (1 - a) * v,
        "the two roots are swapped in x_0": s * x_t - c * v,
        "this takes v for noise (Eq. (4) solved for x_0)": (x_t - s * v) / c,
        "alpha_bar was used along the width: a shape (B,) lines up with W; make it (B, 1, 1, 1)":
            wide.sqrt() * x_t - (1 - wide).sqrt() * v})
    same(got[1], eps, "x_0 is right, but eps must be the noise that x_t and v were made from", {
        "the sign is wrong in eps": c * v - s * x_t,
        "the two roots are swapped in eps": s * v + c * x_t,
        "eps is still multiplied: divide, or better, use both equations": x_t - c * x_0})
