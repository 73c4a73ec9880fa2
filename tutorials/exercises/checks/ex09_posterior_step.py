import torch

from .tools import call, numbers, randn, same


def check_posterior_step(posterior_step):
    alpha_bar = numbers(.95, .8, .5, .2)
    x_t, x_0, z = randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4, seed=2), randn(2, 3, 4, 4, seed=3)
    none = torch.zeros_like(z)
    a, s, beta = .5, .8, 1 - .5 / .8                                            # t = 2: one input at a time
    same(call(posterior_step, none, none, 2, alpha_bar, z), ((1 - s) / (1 - a) * beta) ** .5 * z,
         "the noise z must be multiplied with the root of the variance", {
        "the variance has no square root: z must be multiplied with the standard deviation": (1 - s) / (1 - a) * beta * z,
        "this is sqrt(beta) z, the paper's other choice; here the variance is that of the posterior": beta ** .5 * z,
        "the noise z is not used": none})
    same(call(posterior_step, none, x_0, 2, alpha_bar, none), s ** .5 * beta / (1 - a) * x_0,
         "the weight of x_0 must be sqrt(s) beta / (1 - a)", {
        "the square root of s is missing in the weight of x_0": s * beta / (1 - a) * x_0,
        "the weights of x_0 and x_t are swapped": (1 - beta) ** .5 * (1 - s) / (1 - a) * x_0,
        "a and s are swapped in the weight of x_0: the root is of alpha_bar_{t-1}": a ** .5 * beta / (1 - a) * x_0,
        "the mean is not divided by 1 - a": s ** .5 * beta * x_0})
    same(call(posterior_step, x_t, none, 2, alpha_bar, none), (1 - beta) ** .5 * (1 - s) / (1 - a) * x_t,
         "the weight of x_t must be sqrt(1 - beta) (1 - s) / (1 - a)",
         {"the square root of 1 - beta is missing in the weight of x_t": (1 - beta) * (1 - s) / (1 - a) * x_t})
    same(call(posterior_step, x_t, x_0, 0, alpha_bar, z), x_0,
         "at t = 0 the step must end at x_0, without noise: s is 1 there, and alpha_bar[-1] would be the last entry of the table")
