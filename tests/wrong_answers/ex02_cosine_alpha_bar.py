"""ex02_cosine_alpha_bar. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import math

import torch

f64 = torch.float64


def cosine(T, s, times=None, power=2, half=math.pi / 2, stretch=None, divide=True, dtype=f64):
    t = torch.arange(T + 1, dtype=dtype) if times is None else times
    f = ((t / T + s) / (1 + s if stretch is None else stretch) * half).cos() ** power
    return (f / f[0] if divide else f)[1:]


WRONG = [
    ("not squared", "must be squared", lambda T, s=.008: cosine(T, s, power=1)),
    ("not divided by f(0)", "divided by f(0)", lambda T, s=.008: cosine(T, s, divide=False)),
    ("from t = 0", "starts with t = 0", lambda T, s=.008: torch.cat([torch.ones(1, dtype=f64), cosine(T, s)[:-1]])),
    ("pi for pi / 2", "pi / 2", lambda T, s=.008: cosine(T, s, half=math.pi)),
    ("no 1 + s", "1 + s", lambda T, s=.008: cosine(T, s, stretch=1)),
    ("degrees", "angle", lambda T, s=.008: cosine(T, s, half=90.0)),
    ("T + 1 entries", "shape", lambda T, s=.008: torch.cat([torch.ones(1, dtype=f64), cosine(T, s)])),
    ("float32", "float64", lambda T, s=.008: cosine(T, s, dtype=torch.float32)),
    ("another default", "0.008", lambda T, s=.08: cosine(T, s)),
    ("s always the default", "f(t)", lambda T, s=.008: cosine(T, .008)),
    ("divided by T - 1", "f(t)", lambda T, s=.008: cosine(T, s, times=torch.arange(T + 1, dtype=f64) * T / max(T - 1, 1))),
]

RIGHT = [lambda T, s=.008: torch.tensor([cosine(T, s)[i].item() for i in range(T)], dtype=f64)]
