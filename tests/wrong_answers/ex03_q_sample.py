"""ex03_q_sample. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import math

import torch

per_picture = lambda x: x.reshape(-1, 1, 1, 1)


def mixed_in_place(x_0, eps, t, alpha_bar):
    a = per_picture(alpha_bar[t])
    x_0 *= a.sqrt()
    return x_0 + (1 - a).sqrt() * eps


def noised(signal, noise, at=lambda alpha_bar, t: per_picture(alpha_bar[t])):
    return lambda x_0, eps, t, alpha_bar: (signal(at(alpha_bar, t)) * x_0 + noise(at(alpha_bar, t)) * eps).to(x_0.dtype)


root, rest, rooted_rest = torch.sqrt, lambda a: 1 - a, lambda a: (1 - a).sqrt()

WRONG = [
    ("no square roots", "square roots are missing", noised(lambda a: a, rest)),
    ("one square root", "one of the two square roots", noised(root, rest)),
    ("swapped", "swapped", noised(rooted_rest, root)),
    ("1 - root", "not 1 - sqrt", noised(root, lambda a: 1 - a.sqrt())),
    ("along the width", "along the width", noised(root, rooted_rest, lambda alpha_bar, t: alpha_bar[t])),
    ("one t for all", "first one", noised(root, rooted_rest, lambda alpha_bar, t: alpha_bar[t[0]])),
    ("counted from 1", "t counts from 0", noised(root, rooted_rest, lambda alpha_bar, t: per_picture(alpha_bar[t - 1]))),
    ("in place", "changed in place", mixed_in_place),
    ("float64 because of the table", "float64, because the table",
     lambda x_0, eps, t, alpha_bar: (a := per_picture(alpha_bar[t])).sqrt() * x_0 + (1 - a).sqrt() * eps),
    ("its own noise", "eps that was given",
     lambda x_0, eps, t, alpha_bar: noised(root, rooted_rest)(x_0, torch.randn_like(x_0), t, alpha_bar)),
    ("two axes too few", "do shapes and types fit", noised(root, rooted_rest, lambda alpha_bar, t: alpha_bar[t][:, None])),
    ("no return", "is there a return", lambda x_0, eps, t, alpha_bar: None),
]


def one_by_one(x_0, eps, t, alpha_bar):
    a = [alpha_bar[i].item() for i in t]
    return torch.stack([math.sqrt(k) * x + math.sqrt(1 - k) * e for k, x, e in zip(a, x_0, eps)])


RIGHT = [
    one_by_one,
    lambda x_0, eps, t, alpha_bar: (per_picture(alpha_bar[t].sqrt()) * x_0).to(x_0) + (per_picture((1 - alpha_bar[t]).sqrt()) * eps).to(x_0),
]
