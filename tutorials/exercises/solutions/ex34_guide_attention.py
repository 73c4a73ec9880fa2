"""Exercise 34: to push attention somewhere. About 20 minutes, difficulty 4 of 5.     pytest tutorials/exercises -k ex34"""
import torch


def guide_attention(x, loss, M, eta):
    """(B, C, h, w), loss((B, C, h, w)) -> (B,), (B, 1, h, w), float -> (B, C, h, w), without gradient"""
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        g, = torch.autograd.grad(loss(leaf).sum(), leaf)
    return x.detach() - eta * M * g / (g.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-8)
