"""ex33_context_loss. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch


def context(soft=lambda M, a: a + (1 - a) * M, weight=lambda soft: soft ** 2,
            mean=lambda w, d, M: (w * d).sum((1, 2, 3)) / (d.shape[1] * w.sum((1, 2, 3))), error=lambda e, eps: (e - eps).square()):
    def loss(e, eps, M, alpha):
        return mean(weight(soft(M, alpha)), error(e, eps), M)
    return loss


WRONG = [
    ("not squared", "must be squared: it is inside", context(weight=lambda soft: soft)),
    ("mask upside down", "wrong way round", context(lambda M, a: 1 - (1 - a) * M)),
    ("nothing outside", "nothing outside", context(lambda M, a: M)),
    ("alpha + M", "so that it is 1 inside", context(lambda M, a: a + M)),
    ("alpha swapped", "1 - alpha are swapped", context(lambda M, a: 1 - a + a * M)),
    ("divided by the number", "not by the number", context(mean=lambda w, d, M: (w * d).mean((1, 2, 3)))),
    ("channels forgotten", "divide by c", context(mean=lambda w, d, M: (w * d).sum((1, 2, 3)) / w.sum((1, 2, 3)))),
    ("divided by the mask", "not of the mask", context(mean=lambda w, d, M: (w * d).sum((1, 2, 3)) / (d.shape[1] * M.sum((1, 2, 3))))),
    ("absolute values", "difference must be squared", context(error=lambda e, eps: (e - eps).abs())),
    ("one number", "one for each picture", lambda e, eps, M, alpha: context()(e, eps, M, alpha).mean()),
    ("detached", "no gradient", lambda e, eps, M, alpha: context()(e, eps, M, alpha).detach()),
    ("no mask", "weighted by m_soft^2", context(lambda M, a: torch.ones_like(M))),
    ("hard mask", "weighted by m_soft^2", context(lambda M, a: torch.where(M > .5, 1.0, a).to(M))),
]

RIGHT = [
    lambda e, eps, M, a: torch.stack([((k := (a + (1 - a) * m.expand_as(x)) ** 2) * (x - y) ** 2).sum() / k.sum()
                                      for x, y, m in zip(e, eps, M)]),
]
