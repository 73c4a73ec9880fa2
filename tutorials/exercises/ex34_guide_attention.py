"""Exercise 34: to push attention somewhere. About 20 minutes, difficulty 4 of 5.     pytest tutorials/exercises -k ex34

While sampling, CLiC (Safaee et al. 2024, arXiv:2311.17083, Eq. (7)) moves the latents so that the new word looks where it shall be:
down the gradient g of a loss that measures how far its attention is from the mask M. A raw gradient is tiny, and of another size at every
step; so each picture's g is divided by its root mean square (our choice), and only what is inside the mask moves:

    x' = x - eta M g / ( rms(g) + 1e-8 ),     rms(g_b) = sqrt( mean over C, h, w of g_b^2 )

Sampling runs under torch.no_grad(), where there are no gradients: switch them on for this one, with torch.enable_grad(). What comes back
is a constant again, and x itself stays as it is.
"""
import torch


def guide_attention(x, loss, M, eta):
    """(B, C, h, w), loss((B, C, h, w)) -> (B,), (B, 1, h, w), float -> (B, C, h, w), without gradient"""
    raise NotImplementedError("ex34: write guide_attention() in tutorials/exercises/ex34_guide_attention.py: the gradient of "
                              "loss(x).sum() at a copy of x that requires it, normalised for each picture, then a step inside M")
