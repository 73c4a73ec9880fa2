"""ex08_timestep_embedding. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import math

import torch
from einops import rearrange


def sinusoid(order="cs", exponent=lambda i, half: -i / half, base=10000.0, t=lambda t: t.float()):
    def embed(times, width):
        half = width // 2
        frequency = base ** exponent(torch.arange(half, dtype=torch.float32), half)
        angle = t(times)[:, None] * frequency
        parts = {"c": angle.cos(), "s": angle.sin()}
        return torch.cat([parts[k] for k in order], dim=1)
    return embed


WRONG = [
    ("sines first", "sines come first", sinusoid("sc")),
    ("alternating", "alternate", lambda t, width: rearrange(sinusoid()(t, width), "b (two i) -> b (i two)", two=2)),
    ("half - 1", "width / 2 - 1", sinusoid(exponent=lambda i, half: -i / (half - 1))),
    ("divided by width", "by width / 2", sinusoid(exponent=lambda i, half: -i / (2 * half))),
    ("no minus", "minus", sinusoid(exponent=lambda i, half: i / half)),
    ("base e", "powers of 10000", sinusoid(base=math.e)),
    ("only cosines", "shape", sinusoid("c")),
    ("cosines twice", "cosines, then the sines", sinusoid("cc")),
    ("float64", "float32", lambda t, width: sinusoid()(t, width).double()),
    ("t from 0 to 1", "times the frequencies", sinusoid(t=lambda t: t.float() / 1000)),
    ("half precision", "but not 500 and 999", sinusoid(t=lambda t: t.bfloat16().float())),
    ("not for one t alone", "do shapes and types fit",
     lambda t, width: sinusoid()(t, width) if width == 6 else sinusoid()(t.squeeze(), width)),
    ("batch and width swapped", "shape", lambda t, width: sinusoid()(t, width).T),
]

RIGHT = [
    lambda t, width: torch.tensor([[f(k * 10000 ** (-2 * i / width)) for f in (math.cos, math.sin) for i in range(width // 2)]
                                   for k in t.tolist()]),
]
