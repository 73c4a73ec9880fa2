"""ex09_posterior_step. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import math

import torch

f64 = torch.float64


def posterior(weight_x0=None, weight_xt=None, noise=None, before=None):
    """A DDPM step with one of its parts exchanged; each part is a function of a, s, beta."""
    def step(x_t, x_0, t, alpha_bar, z):
        a, s = alpha_bar[t], before(alpha_bar, t) if before else alpha_bar[t - 1] if t else torch.ones((), dtype=alpha_bar.dtype)
        beta = 1 - a / s
        k_0 = (weight_x0 or (lambda a, s, beta: s.sqrt() * beta / (1 - a)))(a, s, beta)
        k_t = (weight_xt or (lambda a, s, beta: (1 - beta).sqrt() * (1 - s) / (1 - a)))(a, s, beta)
        return k_0 * x_0 + k_t * x_t + (noise or (lambda a, s, beta: ((1 - s) / (1 - a) * beta).sqrt()))(a, s, beta) * z
    return step


WRONG = [
    ("variance for deviation", "square root", posterior(noise=lambda a, s, beta: (1 - s) / (1 - a) * beta)),
    ("the other variance", "sqrt(beta) z", posterior(noise=lambda a, s, beta: beta.sqrt())),
    ("no noise", "not used", posterior(noise=lambda a, s, beta: 0)),
    ("root of s missing", "square root of s", posterior(lambda a, s, beta: s * beta / (1 - a))),
    ("a for s", "a and s are swapped", posterior(lambda a, s, beta: a.sqrt() * beta / (1 - a))),
    ("weights swapped", "weights of x_0 and x_t are swapped",
     posterior(lambda a, s, beta: (1 - beta).sqrt() * (1 - s) / (1 - a), lambda a, s, beta: s.sqrt() * beta / (1 - a))),
    ("not divided", "not divided by 1 - a",
     posterior(lambda a, s, beta: s.sqrt() * beta, lambda a, s, beta: (1 - beta).sqrt() * (1 - s))),
    ("root of 1 - beta missing", "square root of 1 - beta", posterior(weight_xt=lambda a, s, beta: (1 - beta) * (1 - s) / (1 - a))),
    ("1 - a for 1 - s", "weight of x_t", posterior(weight_xt=lambda a, s, beta: (1 - beta).sqrt())),
    ("the table's last entry", "alpha_bar[-1]", posterior(before=lambda alpha_bar, t: alpha_bar[t - 1])),
    ("noise at t = 0", "at t = 0",
     posterior(before=lambda alpha_bar, t: alpha_bar[max(t - 1, 0)] if t else torch.tensor(.99, dtype=f64))),
    ("a step too far", "root of the variance",
     posterior(before=lambda alpha_bar, t: alpha_bar[t - 2] if t > 1 else torch.ones((), dtype=f64))),
]


def step_at_0_apart(x_t, x_0, t, alpha_bar, z):
    if t == 0:
        return x_0.clone()
    a, s = alpha_bar[t].item(), alpha_bar[t - 1].item()
    alpha = a / s
    return (math.sqrt(s) * (1 - alpha) * x_0 + math.sqrt(alpha) * (1 - s) * x_t) / (1 - a) + math.sqrt((1 - s) * (1 - alpha) / (1 - a)) * z


RIGHT = [step_at_0_apart]
