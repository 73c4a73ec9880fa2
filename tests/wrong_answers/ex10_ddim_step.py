"""ex10_ddim_step. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch


def ddim(x0=lambda x, e, a: (x - (1 - a) ** .5 * e) / a ** .5, sigma=lambda a, s, eta: eta * ((1 - s) / (1 - a) * (1 - a / s)) ** .5,
         keeps=lambda a, s, sigma: max(1 - s - sigma ** 2, 0) ** .5, signal=lambda a, s: s ** .5, fresh=lambda sigma: sigma):
    def step(x_t, eps, a, s, eta, z):
        deviation = sigma(a, s, eta)
        return signal(a, s) * x0(x_t, eps, a) + keeps(a, s, deviation) * eps + fresh(deviation) * z
    return step


WRONG = [
    ("noise without eta", "multiple of eta", ddim(sigma=lambda a, s, eta: ((1 - s) / (1 - a) * (1 - a / s)) ** .5)),
    ("x_0 not divided", "not divided by sqrt(a)", ddim(x0=lambda x, e, a: x - (1 - a) ** .5 * e)),
    ("the old noise level", "old noise level", ddim(keeps=lambda a, s, sigma: max(1 - a - sigma ** 2, 0) ** .5)),
    ("x_t for x_0", "in place of x_0", ddim(x0=lambda x, e, a: x)),
    ("no roots", "square roots are missing", ddim(keeps=lambda a, s, sigma: 1 - s - sigma ** 2, signal=lambda a, s: s)),
    ("eps as large as before", "shrink by sigma^2", ddim(keeps=lambda a, s, sigma: (1 - s) ** .5)),
    ("sigma not squared", "must be squared", ddim(keeps=lambda a, s, sigma: max(1 - s - sigma, 0) ** .5)),
    ("no fresh noise", "fresh noise z is missing", ddim(fresh=lambda sigma: 0)),
    ("a variance for sigma", "a variance was used", ddim(sigma=lambda a, s, eta: eta * (1 - s) / (1 - a) * (1 - a / s))),
    ("eta under the root", "eta multiplies the root", ddim(sigma=lambda a, s, eta: (eta * (1 - s) / (1 - a) * (1 - a / s)) ** .5)),
    ("sqrt of a float", "do shapes and types fit", ddim(signal=lambda a, s: torch.sqrt(s))),
    ("minus eps", "mixed as at the new alpha_bar", ddim(keeps=lambda a, s, sigma: -max(1 - s - sigma ** 2, 0) ** .5)),
    ("never quite at the picture", "must end at x_0", ddim(keeps=lambda a, s, sigma: max(1 - s - sigma ** 2, .01) ** .5)),
]
f64 = torch.float64


def ddim_with_tensors(x_t, eps, a, s, eta, z):
    a, s = torch.tensor(a, dtype=f64), torch.tensor(s, dtype=f64)
    sigma = eta * torch.sqrt((1 - s) / (1 - a)) * torch.sqrt(1 - a / s)
    return s.sqrt() * (x_t - (1 - a).sqrt() * eps) / a.sqrt() + torch.sqrt(1 - s - sigma ** 2) * eps + sigma * z


RIGHT = [ddim_with_tensors]
