import torch

from .tools import call, gradient, randn, same


def check_prior_preservation_loss(prior_preservation_loss):
    e, eps = randn(3, 4, 5, 5, seed=1).requires_grad_(), randn(3, 4, 5, 5, seed=2)
    e_pr, eps_pr = randn(2, 4, 5, 5, seed=3), randn(2, 4, 5, 5, seed=4)
    mask = torch.zeros(3, 1, 5, 5, dtype=torch.float64)
    mask[0], mask[1, :, 1:3, 1:4], mask[2, :, 4, 4] = 1, 1, 1                   # 25, 6 and 1 places
    d, lam = (e - eps).square(), .3
    own, other = (mask * d).sum((1, 2, 3)), (e_pr - eps_pr).square().mean()
    n = torch.tensor([25, 6, 1], dtype=torch.float64)
    loss = call(prior_preservation_loss, e, eps, mask, e_pr, eps_pr, lam)
    total = lambda own, other=other: own.mean() + lam * other
    same(loss, total(own / (4 * n)), "the mean over own pictures of their masked means, plus lam times the mean over the class", {
        "the mean runs over the whole canvas; divide by what the mask lets through": total(mask * d),
        "divide by C times the ones of the mask: errors were summed over all channels": total(own / n),
        "all own pictures were averaged together, so that small ones hardly count: a mean for each, then their mean":
            total(own.sum() / (4 * n.sum())),
        "the mask is not used": total(d),
        "the mask is the wrong way round: 1 is where the picture is":
            total(((1 - mask) * d).sum((1, 2, 3)) / (4 * (25 - n).clamp(min=1))),
        "lam weighs the class, not the own pictures": lam * (own / (4 * n)).mean() + other,
        "lam is not used": total(own / (4 * n)) + .7 * other,
        "the class is missing: the model would forget what other cats look like": (own / (4 * n)).mean(),
        "the class's errors are summed: take the mean": total(own / (4 * n), 200 * other)})
    gradient(loss, e, "no gradient reaches the prediction")
    empty = call(prior_preservation_loss, e, eps, mask * 0, e_pr, eps_pr, lam)
    same(empty, lam * other, "a mask without a single 1 must give 0 for that picture: 0 / 0 is NaN, so clamp what you divide by")
