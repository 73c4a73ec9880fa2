from .tools import call, gradient, randn, same


def check_sample_latents(sample_latents):
    mean, logvar, noise = (randn(2, 4, 3, 3, seed=s) for s in (1, 2, 3))
    mean, logvar, factor = mean.requires_grad_(), logvar.requires_grad_(), .18
    deviation = (logvar / 2).exp()
    got = call(sample_latents, mean, logvar, noise, factor)
    same(got, factor * mean + factor * deviation * noise, "z = factor (mean + exp(logvar / 2) noise)", {
        "exp(logvar) is the variance; noise is multiplied with its root, exp(logvar / 2)": factor * (mean + logvar.exp() * noise),
        "logvar is a logarithm: the exponential is missing": factor * (mean + logvar * noise),
        "divided by the factor: that is the way back, for decoding": (mean + deviation * noise) / factor,
        "the factor multiplies the noise too": factor * mean + deviation * noise,
        "the factor multiplies the mean too": mean + factor * deviation * noise,
        "the noise is missing: this is the mean": factor * mean,
        "the factor is missing": mean + deviation * noise})
    g = gradient(got, logvar, "no gradient reaches the encoder: .detach(), no_grad or a draw by torch.normal cut it off")
    same(g, factor * deviation / 2 * noise, "no gradient reaches logvar: the standard deviation must be computed from it, attached")
