"""ex17_compose_guidance. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

wide = lambda w: w.reshape(-1, 1, 1, 1, 1)
in_turn = lambda u, c, w: u if not len(w) else in_turn(u + w[0] * (c[0] - u), c[1:], w[1:])


def added_in_place(u, c, w):
    for e, k in zip(c.unbind() if len(c) else [], w):
        u += k * (e - u.clone())
    return u


WRONG = [
    ("a mean", "mean over the prompts", lambda u, c, w: u + (wide(w) * (c - u)).mean(0)),
    ("subtracted once", "subtracted only once", lambda u, c, w: u + ((wide(w) * c).sum(0) - u)),
    ("e_uncond for each", "added once for each prompt", lambda u, c, w: (u + wide(w) * (c - u)).sum(0)),
    ("along the width", "along the width", lambda u, c, w: u + (w * (c - u)).sum(0)),
    ("no negative weights", "no abs", lambda u, c, w: u + (wide(w.abs()) * (c - u)).sum(0)),
    ("negative weights ignored", "here it does nothing", lambda u, c, w: u + (wide(w.clamp(min=0)) * (c - u)).sum(0)),
    ("only the first", "only the first", lambda u, c, w: u + w[0] * (c[0] - u)),
    ("one after the other", "one prompt after the other", in_turn),
    ("in place", "changed in place", added_in_place),
    ("summed over the batch", "do shapes and types fit", lambda u, c, w: u + (wide(w) * (c - u)).sum(1)),
    ("weights that sum to 1", "for each prompt", lambda u, c, w: u + (wide(w / w.sum()) * (c - u)).sum(0)),
    ("not for one prompt", "plain guidance", lambda u, c, w: u + (wide(w) * (c - u)).sum(0) * (1 if len(w) > 1 else 2)),
]

RIGHT = [lambda u, c, w: (1 - w.sum()) * u + torch.tensordot(w, c, dims=1)]
