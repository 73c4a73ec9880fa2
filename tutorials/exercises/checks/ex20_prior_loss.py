import torch

from .tools import call, gradient, numbers, randn, same


def check_prior_loss(prior_loss):
    e, eps, mean, std = 2 * randn(4, 4, seed=1) + 1, randn(4, 4, seed=2), randn(4, seed=3), randn(4, seed=4).exp()     # B = E
    alpha_bar, t, weight, seen = numbers(.9, .7, .4, .1), torch.tensor([3, 0, 2, 1]), numbers(.3).requires_grad_(), []

    def predict(z_t, times):
        seen.append((z_t.detach().clone(), times))
        return weight * z_t
    loss = call(prior_loss, predict, e, mean, std, t, eps, alpha_bar)
    assert len(seen) == 1, f"predict must be called once, not {len(seen)} times"
    z = (e - mean) / std
    mix = lambda a, x, root=.5: a ** root * x + (1 - a) ** root * eps
    a, (z_t, times) = alpha_bar[t].reshape(4, 1), seen[0]
    same(z_t, mix(a, z), "predict must get z, whitened, with noise: sqrt(alpha_bar) z + sqrt(1 - alpha_bar) eps", {
        "the embedding was not whitened before the noise came": mix(a, e),
        "whitening divides by std": mix(a, (e - mean) * std),
        "whitening subtracts the mean first": mix(a, e / std),
        "whitening subtracts the mean before it divides": mix(a, e / std - mean),
        "std is the standard deviation already: no square root": mix(a, (e - mean) / std.sqrt()),
        "the square roots are missing: alpha_bar is a variance": mix(a, z, 1),
        "alpha_bar was used along the embedding: alpha_bar[t] is (B,), make it (B, 1)": mix(alpha_bar[t], z),
        "predict got the clean embedding": z})
    assert torch.equal(torch.as_tensor(times), t), "predict must get t as second argument"
    difference = lambda target: (.3 * z_t - target).square().mean()
    same(loss, difference(z), "the loss must compare the prediction with z, the clean whitened embedding: mean of squares", {
        "the prediction is compared with the noise; a prior predicts the clean embedding": difference(eps),
        "the prediction is compared with e, which is not whitened": difference(e),
        "the prediction is compared with its own input": difference(z_t),
        "errors are summed: take the mean": 16 * difference(z),
        "errors are summed over the embedding: take the mean over all numbers": 4 * difference(z)})
    gradient(loss, weight, "no gradient reaches the network: no detach, no no_grad here")
