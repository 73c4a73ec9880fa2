import torch

from .tools import call, gradient, randn, same


def check_context_loss(context_loss):
    e, eps, alpha = randn(3, 4, 5, 5, seed=1).requires_grad_(), randn(3, 4, 5, 5, seed=2), .4
    M = torch.zeros(3, 1, 5, 5, dtype=torch.float64)
    M[0, :, 1:3, 1:4], M[1, :, 4, 4], M[2, :, :2] = 1, 1, .5
    d, soft = (e - eps).square(), alpha + (1 - alpha) * M
    mean = lambda weight, d=d: (weight * d).sum((1, 2, 3)) / (4 * weight.sum((1, 2, 3)))
    loss = call(context_loss, e, eps, M, alpha)
    assert getattr(loss, "ndim", 1) == 1, "this is one number; there must be one for each picture, (B,)"
    same(loss, mean(soft ** 2), "the mean of squares, weighted by M_soft^2, for each picture", {
        "the soft mask must be squared: it is inside the norm": mean(soft),
        "the mask is the wrong way round: the weight is 1 where M is 1": mean((1 - (1 - alpha) * M) ** 2),
        "nothing outside the mask counts here: the context is what this loss is for": mean(M ** 2),
        "M_soft = alpha + (1 - alpha) M, so that it is 1 inside": mean((alpha + M) ** 2),
        "alpha and 1 - alpha are swapped": mean((1 - alpha + alpha * M) ** 2),
        "divide by the sum of the weights, not by the number of entries": (soft ** 2 * d).mean((1, 2, 3)),
        "errors are summed over C channels, but the weights were summed over one: divide by C": 4 * mean(soft ** 2),
        "divide by the sum of the weights, M_soft^2, not of the mask": (soft ** 2 * d).sum((1, 2, 3)) / (4 * M.sum((1, 2, 3))),
        "the difference must be squared": mean(soft ** 2, d.sqrt())})
    same(gradient(loss, e,
         "no gradient reaches the prediction"), 2 * (e - eps) * soft ** 2 / (4 * (soft ** 2).sum((1, 2, 3), keepdim=True)),
         "the value is right, but the gradient is not that of the formula")
