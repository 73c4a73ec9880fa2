"""ex18_sample_latents. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

std = lambda logvar: (logvar / 2).exp()

WRONG = [
    ("variance for deviation", "is the variance", lambda m, v, z, k: k * (m + v.exp() * z)),
    ("no exponential", "exponential is missing", lambda m, v, z, k: k * (m + v * z)),
    ("divided", "way back", lambda m, v, z, k: (m + std(v) * z) / k),
    ("mean scaled alone", "multiplies the noise too", lambda m, v, z, k: k * m + std(v) * z),
    ("noise scaled alone", "multiplies the mean too", lambda m, v, z, k: m + k * std(v) * z),
    ("no noise", "noise is missing", lambda m, v, z, k: k * m),
    ("no factor", "factor is missing", lambda m, v, z, k: m + std(v) * z),
    ("its own noise", "exp(logvar / 2) noise", lambda m, v, z, k: k * (m + std(v) * torch.randn_like(z))),
    ("exp(2 logvar)", "exp(logvar / 2) noise", lambda m, v, z, k: k * (m + (2 * v).exp() * z)),
    ("detached", "no gradient reaches the encoder", lambda m, v, z, k: k * (m + std(v) * z).detach()),
    ("deviation detached", "no gradient reaches logvar", lambda m, v, z, k: k * (m + std(v.detach()) * z)),
    ("log to the base 2", "exp(logvar / 2) noise", lambda m, v, z, k: k * (m + 2 ** (v / 2) * z)),
]

RIGHT = [lambda m, v, z, k: k * m + k * v.exp().sqrt() * z]
