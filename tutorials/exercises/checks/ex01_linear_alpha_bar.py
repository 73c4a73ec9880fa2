import torch

from .tools import call, numbers, same


def check_linear_alpha_bar(linear_alpha_bar):
    betas = numbers(.1, .15, .2, .25, .3)
    left, want = 1.0, []
    for beta in betas.tolist():
        left *= 1 - beta
        want.append(left)
    want = numbers(*want)
    same(call(linear_alpha_bar, 5, .1, .3), want, "entry t must be the product of 1 - beta over the first steps, step t included", {
        "this multiplies the betas; what a step leaves is 1 - beta": betas.cumprod(0),
        "this is 1 - beta of each step alone; alpha_bar is the product of all steps so far": 1 - betas,
        "this starts at 1, but the first entry is alpha_bar after the first step: one place too late": torch.cat([numbers(1), want[:-1]]),
        "this subtracts the sum of the betas; what is left is a product": 1 - betas.cumsum(0),
        "this is the square root of alpha_bar": want.sqrt(),
        "the last beta must be beta_end itself, both ends are included": (1 - .1 - .2 * torch.arange(5) / 5).double().cumprod(0),
        "here the root of beta is evenly spaced (Stable Diffusion's choice); it must be beta itself":
            (1 - torch.linspace(.1 ** .5, .3 ** .5, 5).double() ** 2).cumprod(0)})
    long = call(linear_alpha_bar, 1000, 1e-4, .02)
    same(long[-1], torch.tensor(4.035830e-05, dtype=torch.float64), "after the 1000 steps of the paper 4e-5 must be left", rtol=1e-5)
