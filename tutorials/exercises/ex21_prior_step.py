"""Exercise 21: sampling from a prior. About 25 minutes, difficulty 4 of 5.     pytest tutorials/exercises -k ex21

Five steps are enough for a prior: 999, 749, 500, 250, 0. So a step jumps, from t to an earlier u, -1 after the last. With
a = alpha_bar_t, s = alpha_bar_u (1 for u = -1) and beta = 1 - a / s, a step for a network that predicts clean, whitened embeddings is

    f    = f_uncond + scale ( f_cond - f_uncond )             guidance works on clean predictions, too
    z    = f, clamped to -limit .. limit                      guidance overshoots; whitened embeddings stay within some deviations
    mean = ( sqrt(s) beta z + sqrt(1 - beta) (1 - s) z_t ) / (1 - a)
    z_u  = mean + sqrt( (1 - s) / (1 - a) beta ) noise

Ramesh et al. 2022, arXiv:2204.06125; Ho et al. 2020, arXiv:2006.11239, Eq. (6), (7), for jumps.
"""
import torch


def prior_step(z_t, f_uncond, f_cond, scale, t, u, alpha_bar, limit, noise):
    """(B, E), (B, E), (B, E), float, ints u < t, (T,), float, (B, E) -> (B, E)"""
    raise NotImplementedError("ex21: write prior_step() in tutorials/exercises/ex21_prior_step.py: guide, clamp, then the mean and "
                              "the noise of a step from t to u")
