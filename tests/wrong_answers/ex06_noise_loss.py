"""ex06_noise_loss. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch.nn.functional as F

per_picture = lambda x: x.reshape(-1, 1, 1, 1)
each_error = lambda e, eps: (e - eps).square().mean((1, 2, 3))

WRONG = [
    ("a sum over pixels", "summed over the pixels", lambda e, eps, w: (w * (e - eps).square().sum((1, 2, 3))).mean()),
    ("weights along the width", "along the width", lambda e, eps, w: (w * (e - eps).square()).mean()),
    ("divided by the weights", "sum of the weights", lambda e, eps, w: (w * each_error(e, eps)).sum() / w.sum()),
    ("no weights", "weights are not used", lambda e, eps, w: F.mse_loss(e, eps)),
    ("absolute values", "absolute value", lambda e, eps, w: (w * (e - eps).abs().mean((1, 2, 3))).mean()),
    ("weights squared", "weight was squared", lambda e, eps, w: (per_picture(w) * (e - eps)).square().mean()),
    ("root of the mean", "root of the mean", lambda e, eps, w: (w * each_error(e, eps).sqrt()).mean()),
    ("no mean over the batch", "for each picture", lambda e, eps, w: w * each_error(e, eps)),
    ("a sum over the batch", "mean of weight", lambda e, eps, w: (w * each_error(e, eps)).sum()),
    ("weights times mean of errors", "mean of weight", lambda e, eps, w: w.mean() * each_error(e, eps).mean()),
    ("detached", "no gradient", lambda e, eps, w: (w * each_error(e.detach(), eps)).mean()),
    ("one factor detached", "gradient is not that", lambda e, eps, w: (w * ((e - eps) * (e - eps).detach()).mean((1, 2, 3))).mean()),
    ("item()", "a float came back", lambda e, eps, w: (w * each_error(e, eps)).mean().item()),
]


def loss_in_a_loop(e, eps, w):
    return sum(k * F.mse_loss(x, y) for k, x, y in zip(w, e, eps)) / len(w)


RIGHT = [loss_in_a_loop, lambda e, eps, w: (per_picture(w) * (e - eps) ** 2).mean()]
