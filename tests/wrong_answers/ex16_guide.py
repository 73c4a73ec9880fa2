"""ex16_guide. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

WRONG = [
    ("swapped", "swapped", lambda u, c, s: c + s * (u - c)),
    ("one too many", "s = 1 + w", lambda u, c, s: u + (1 + s) * (c - u) if s else u),
    ("the other formula with s for w", "scale 0 must ignore", lambda u, c, s: (1 + s) * c - s * u),
    ("stops at 1", "stops at e_cond", lambda u, c, s: u + min(s, 1.0) * (c - u)),
    ("no difference", "scale 1 must be", lambda u, c, s: u + s * c),
    ("only the prompt", "nothing is left", lambda u, c, s: s * c),
    ("a weighted mean", "scale 1 must be", lambda u, c, s: (u + s * c) / (1 + s)),
    ("in place", "changed in place", lambda u, c, s: u.add_(s * (c - u))),
    ("whole numbers", "scale is a float", lambda u, c, s: u + int(s) * (c - u)),
    ("half as far", "go past e_cond", lambda u, c, s: u + s * (c - u) if s <= 1 else u + (1 + s) / 2 * (c - u)),
]

RIGHT = [lambda u, c, s: torch.lerp(u, c, s)]
