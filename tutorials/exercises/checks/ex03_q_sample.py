import torch

from .tools import call, numbers, randn, same


def check_q_sample(q_sample):
    alpha_bar = numbers(.95, .9, .7, .6, .4, .3, .05)
    x_0, eps = randn(3, 2, 5, 3, seed=1), randn(3, 2, 5, 3, seed=2)             # B = W: a wrong axis raises no error
    t = torch.tensor([6, 1, 4])
    mixed = lambda signal, noise: torch.stack([s * x + n * e for s, n, x, e in zip(signal, noise, x_0, eps)])
    a = alpha_bar[t]
    same(call(q_sample, x_0, eps, t, alpha_bar), mixed(a.sqrt(), (1 - a).sqrt()),
         "x_t must be sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, with the eps that was given and each picture's own t", {
             "the square roots are missing: alpha_bar is a variance": mixed(a, 1 - a),
             "one of the two square roots is missing: both numbers are variances": mixed(a.sqrt(), 1 - a),
             "signal and noise are swapped: alpha_bar is what is left of x_0": mixed((1 - a).sqrt(), a.sqrt()),
             "the noise's share is sqrt(1 - alpha_bar), not 1 - sqrt(alpha_bar)": mixed(a.sqrt(), 1 - a.sqrt()),
             "alpha_bar was multiplied along the width: a shape (B,) lines up with W; make it (B, 1, 1, 1)":
                 a.sqrt() * x_0 + (1 - a).sqrt() * eps,
             "every picture got the t of the first one": mixed(a[:1].sqrt().expand(3), (1 - a[:1]).sqrt().expand(3)),
             "this is the entry before: t counts from 0 here": mixed(alpha_bar[t - 1].sqrt(), (1 - alpha_bar[t - 1]).sqrt())})
    half = call(q_sample, x_0.float(), eps.float(), t, alpha_bar)
    assert half.dtype == torch.float32, "float32 pictures became float64, because the table is: bring alpha_bar to the dtype of x_0"
