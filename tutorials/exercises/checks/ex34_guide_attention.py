import torch

from .tools import call, constant, numbers, randn, same


def check_guide_attention(guide_attention):
    x, M, strength, eta = randn(3, 2, 4, 4, seed=1), (randn(3, 1, 4, 4, seed=2) > 0).double(), numbers(.05, 50, 2), .3
    loss = lambda x: strength * (x.sin() - .5).square().sum((1, 2, 3))
    g = strength.reshape(3, 1, 1, 1) * 2 * (x.sin() - .5) * x.cos()
    rms = g.square().mean((1, 2, 3), keepdim=True).sqrt()
    with torch.no_grad():                                                       # as in a sampler
        got = call(guide_attention, x, loss, M, eta)
    same(got, x - eta * M * g / rms, "x - eta M g / rms(g), a step down the gradient, inside the mask", {
        "the loss grows: go down the gradient, minus": x + eta * M * g / rms,
        "the gradient is not normalised: divide it by its root mean square": x - eta * M * g,
        "the root mean square is one of the whole batch; each picture has its own": x - eta * M * g / g.square().mean().sqrt(),
        "divided by the norm, the root of the sum; the root of the mean is meant":
            x - eta * M * g / g.square().sum((1, 2, 3), keepdim=True).sqrt(),
        "divided by the mean of squares, without its root": x - eta * M * g / rms ** 2,
        "what is outside the mask moved, too": x - eta * g / rms,
        "what is inside the mask must move, and the rest stay": x - eta * (1 - M) * g / rms,
        "this is the sign of the gradient": x - eta * M * g.sign(),
        "normalised after the mask: rms is that of the whole gradient":
            x - eta * M * g / (M * g).square().mean((1, 2, 3), keepdim=True).sqrt(),
        "this is the step alone: subtract it from x": eta * M * g / rms, "eta is not used": x - M * g / rms}, rtol=1e-4, atol=1e-6)
    for result in (got, call(guide_attention, x, loss, M, eta)):
        constant(result, "the result requires a gradient: step from x, not from the copy that requires it, or detach")
    flat = lambda x: 0 * x.sum((1, 2, 3))
    same(call(guide_attention, x, flat, M, eta), x,
         "where the gradient is 0, x must stay; 0 / 0 is NaN: add 1e-8 to the root mean square")
