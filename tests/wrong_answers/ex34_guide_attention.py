"""ex34_guide_attention. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch


def pushed(leaf=lambda x: x.detach().clone().requires_grad_(), sign=-1,
           size=lambda g, M: g.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-8, mask=lambda M: M,
           start=lambda x, leaf: x, eta_of=lambda eta: eta, change=lambda g: g):
    def guide(x, loss, M, eta):
        with torch.enable_grad():
            x_in = leaf(x)
            g, = torch.autograd.grad(loss(x_in).sum(), x_in)
        return start(x, x_in) + sign * eta_of(eta) * mask(M) * change(g) / size(g, M)
    return guide


def without_enable_grad(x, loss, M, eta):
    leaf = x.detach().clone().requires_grad_()
    g, = torch.autograd.grad(loss(leaf).sum(), leaf)
    return x - eta * M * g / (g.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-8)


def with_gradient(x, loss, M, eta):
    with torch.enable_grad():
        return pushed(start=lambda x, leaf: leaf)(x, loss, M, eta)


rms = lambda g, axes=(1, 2, 3): g.square().mean(axes, keepdim=True).sqrt()

WRONG = [
    ("uphill", "the loss grows", pushed(sign=1)),
    ("raw gradient", "not normalised", pushed(size=lambda g, M: 1)),
    ("rms of the batch", "whole batch", pushed(size=lambda g, M: rms(g, (0, 1, 2, 3)) + 1e-8)),
    ("norm", "root of the sum", pushed(size=lambda g, M: g.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) + 1e-8)),
    ("mean of squares", "without its root", pushed(size=lambda g, M: rms(g) ** 2 + 1e-8)),
    ("no mask", "outside the mask moved", pushed(mask=lambda M: 1)),
    ("mask upside down", "must move, and the rest stay", pushed(mask=lambda M: 1 - M)),
    ("sign", "sign of the gradient", pushed(change=lambda g: g.sign(), size=lambda g, M: 1)),
    ("normalised after the mask", "after the mask", pushed(size=lambda g, M: rms(M * g) + 1e-8)),
    ("the step alone", "subtract it from x", pushed(start=lambda x, leaf: 0, sign=1)),
    ("no eta", "eta is not used", pushed(eta_of=lambda eta: 1)),
    ("x itself requires a gradient", "changed in place", pushed(leaf=lambda x: x.requires_grad_())),
    ("under no_grad", "do shapes and types fit", without_enable_grad),
    ("attached", "requires a gradient", with_gradient),
    ("0 / 0", "0 / 0 is nan", pushed(size=lambda g, M: rms(g))),
]


def pushed_by_backward(x, loss, M, eta):
    leaf = x.clone().detach()
    leaf.requires_grad = True
    with torch.enable_grad():
        loss(leaf).sum().backward()
    g = leaf.grad
    return x - eta * M * g / (g.pow(2).mean(dim=[1, 2, 3], keepdim=True) + 1e-16).sqrt()


RIGHT = [pushed_by_backward]
