import torch

from .tools import call, numbers, randn, same


def check_x0_from_eps(x0_from_eps):
    alpha_bar, t = numbers(.95, .9, .7, .5, .4, .3, .05), torch.tensor([6, 1, 4, 0])
    x_0, eps = randn(4, 3, 2, 4, seed=1), randn(4, 3, 2, 4, seed=2)             # B = W: a wrong axis raises no error
    a = alpha_bar[t].reshape(4, 1, 1, 1)
    x_t = a.sqrt() * x_0 + (1 - a).sqrt() * eps
    wide = alpha_bar[t]
    same(call(x0_from_eps, x_t, eps, t, alpha_bar), x_0, "x_t was made from an x_0, which must come back exactly. Is each step undone?", {
        "the noise is gone, but x_0 is still multiplied: divide by sqrt(alpha_bar)": a.sqrt() * x_0,
        "only x_t was divided by sqrt(alpha_bar): parentheses around the difference": x_t / a.sqrt() - (1 - a).sqrt() * eps,
        "the noise was added once more: subtract it": (x_t + (1 - a).sqrt() * eps) / a.sqrt(),
        "the square roots are missing: alpha_bar is a variance": (x_t - (1 - a) * eps) / a,
        "divide by the square root of alpha_bar, as x_0 was multiplied with the root": (x_t - (1 - a).sqrt() * eps) / a,
        "alpha_bar was used along the width: a shape (B,) lines up with W; make it (B, 1, 1, 1)":
            (x_t - (1 - wide).sqrt() * eps) / wide.sqrt()})
