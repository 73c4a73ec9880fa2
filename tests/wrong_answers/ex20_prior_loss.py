"""ex20_prior_loss. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch
import torch.nn.functional as F

std = lambda logvar: (logvar / 2).exp()


def prior(whiten=lambda e, m, s: (e - m) / s, a_of=lambda a, t: a[t][:, None], power=.5, target=lambda z, e, eps, z_t: z,
          reduce=lambda d: d.square().mean(), given=lambda z_t, z: z_t, prediction=lambda p: p, times=lambda t: t):
    def loss(predict, e, mean, std, t, eps, alpha_bar):
        z, a = whiten(e, mean, std), a_of(alpha_bar, t)
        z_t = a ** power * z + (1 - a) ** power * eps
        return reduce(prediction(predict(given(z_t, z), times(t))) - target(z, e, eps, z_t))
    return loss


def whitened_in_place(predict, e, mean, std, t, eps, alpha_bar):
    e -= mean
    return prior(lambda e, m, s: e / s)(predict, e, mean, std, t, eps, alpha_bar)


WRONG = [
    ("not whitened", "was not whitened", prior(lambda e, m, s: e)),
    ("multiplied by std", "whitening divides", prior(lambda e, m, s: (e - m) * s)),
    ("mean not subtracted", "subtracts the mean first", prior(lambda e, m, s: e / s)),
    ("divided too early", "before it divides", prior(lambda e, m, s: e / s - m)),
    ("std taken for a variance", "no square root", prior(lambda e, m, s: (e - m) / s.sqrt())),
    ("no roots", "square roots are missing", prior(power=1)),
    ("along the embedding", "along the embedding", prior(a_of=lambda a, t: a[t])),
    ("clean input", "clean embedding", prior(given=lambda z_t, z: z)),
    ("noise as target", "compared with the noise", prior(target=lambda z, e, eps, z_t: eps)),
    ("e as target", "compared with e", prior(target=lambda z, e, eps, z_t: e)),
    ("a sum", "errors are summed: take the mean", prior(reduce=lambda d: d.square().sum())),
    ("a sum over the embedding", "summed over the embedding", prior(reduce=lambda d: d.square().sum(1).mean())),
    ("its own input as target", "its own input", prior(target=lambda z, e, eps, z_t: z_t)),
    ("detached", "no gradient reaches the network", prior(prediction=lambda p: p.detach())),
    ("t as a share", "t as second argument", prior(times=lambda t: t / 1000)),
    ("never predicted", "must be called once",
     lambda predict, e, mean, std, t, eps, alpha_bar: prior()(lambda z_t, t: z_t, e, mean, std, t, eps, alpha_bar)),
    ("in place", "changed in place", whitened_in_place),
]

RIGHT = [
    lambda predict, e, mean, std, t, eps, alpha_bar: F.mse_loss(predict(torch.stack(
        [alpha_bar[k].sqrt() * (x - mean) / std + (1 - alpha_bar[k]).sqrt() * n for k, x, n in zip(t, e, eps)]), t), (e - mean) / std),
]
