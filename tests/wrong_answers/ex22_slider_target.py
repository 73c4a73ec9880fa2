"""ex22_slider_target. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

WRONG = [
    ("swapped", "swapped", lambda t, p, n, eta: (t + eta * (n - p).sum(0)).detach()),
    ("a mean", "mean over the preserved", lambda t, p, n, eta: (t + eta * (p - n).mean(0)).detach()),
    ("over the batch", "over the batch", lambda t, p, n, eta: (t + eta * (p - n).sum(1)).detach()),
    ("the first pair", "only the first preserved", lambda t, p, n, eta: (t + eta * (p - n)[0]).detach()),
    ("from e_neg", "starts from e_neg", lambda t, p, n, eta: (n[0] + eta * (p - n).sum(0)).detach()),
    ("without e_t", "e_t is missing", lambda t, p, n, eta: (eta * (p - n).sum(0)).detach()),
    ("without eta", "eta is not used", lambda t, p, n, eta: (t + (p - n).sum(0)).detach()),
    ("eta on all", "multiplies e_t as well", lambda t, p, n, eta: (eta * (t + (p - n).sum(0))).detach()),
    ("not detached", "must be a constant", lambda t, p, n, eta: t + eta * (p - n).sum(0)),
    ("only e_t detached", "must be a constant", lambda t, p, n, eta: t.detach() + eta * (p - n).sum(0)),
    ("away from e_t", "ways from e_neg to e_pos", lambda t, p, n, eta: (t + eta * (p - t).sum(0)).detach()),
    ("one target for each p", "shape", lambda t, p, n, eta: (t + eta * (p - n)).detach()),
    ("never backwards", "reverse the direction", lambda t, p, n, eta: (t + max(eta, 0) * (p - n).sum(0)).detach()),
    ("in place", "changed in place", lambda t, p, n, eta: (t + eta * p.sub_(n).sum(0)).detach()),
]

RIGHT = [torch.no_grad()(lambda t, p, n, eta: t + eta * p.sum(0) - eta * n.sum(0))]
