"""ex28_prior_preservation_loss. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch
import torch.nn.functional as F

masked_sum = lambda e, eps, m: (m * (e - eps).square()).sum((1, 2, 3))
ones_of = lambda m: m.sum((1, 2, 3)).clamp(min=1)
own_loss = lambda e, eps, m: (masked_sum(e, eps, m) / (e.shape[1] * ones_of(m))).mean()

WRONG = [
    ("mean over the canvas", "whole canvas", lambda e, eps, m, p, q, lam: (m * (e - eps).square()).mean() + lam * F.mse_loss(p, q)),
    ("channels forgotten", "divide by c",
     lambda e, eps, m, p, q, lam: (masked_sum(e, eps, m) / ones_of(m)).mean() + lam * F.mse_loss(p, q)),
    ("all own together", "averaged together",
     lambda e, eps, m, p, q, lam: masked_sum(e, eps, m).sum() / (4 * m.sum().clamp(min=1)) + lam * F.mse_loss(p, q)),
    ("no mask", "mask is not used", lambda e, eps, m, p, q, lam: F.mse_loss(e, eps) + lam * F.mse_loss(p, q)),
    ("mask upside down", "wrong way round", lambda e, eps, m, p, q, lam: own_loss(e, eps, 1 - m) + lam * F.mse_loss(p, q)),
    ("lam on the own", "lam weighs the class", lambda e, eps, m, p, q, lam: lam * own_loss(e, eps, m) + F.mse_loss(p, q)),
    ("no lam", "lam is not used", lambda e, eps, m, p, q, lam: own_loss(e, eps, m) + F.mse_loss(p, q)),
    ("no class", "class is missing", lambda e, eps, m, p, q, lam: own_loss(e, eps, m)),
    ("a sum over the class", "class's errors are summed",
     lambda e, eps, m, p, q, lam: own_loss(e, eps, m) + lam * (p - q).square().sum()),
    ("0 / 0", "0 / 0 is nan",
     lambda e, eps, m, p, q, lam: (masked_sum(e, eps, m) / (4 * m.sum((1, 2, 3)))).mean() + lam * F.mse_loss(p, q)),
    ("detached", "no gradient", lambda e, eps, m, p, q, lam: own_loss(e.detach(), eps, m) + lam * F.mse_loss(p, q)),
    ("the class masked, too", "do shapes and types fit", lambda e, eps, m, p, q, lam: own_loss(e, eps, m) + lam * own_loss(p, q, m)),
    ("all in one batch", "masked means",
     lambda e, eps, m, p, q, lam: (own_loss(e, eps, m) * len(e) + lam * F.mse_loss(p, q) * len(p)) / (len(e) + len(p))),
]
f64 = torch.float64


def loop_of_masks(e, eps, m, p, q, lam):
    own = [((x - y) ** 2)[:, k[0] > 0].mean() if k.any() else torch.zeros((), dtype=f64) for x, y, k in zip(e, eps, m)]
    return torch.stack(own).mean() + lam * ((p - q) ** 2).mean()


RIGHT = [loop_of_masks]
