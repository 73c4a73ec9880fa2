"""Exercise 28: learning a cat without forgetting cats. About 15 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex28

Fine-tuned on five pictures of one cat, a model draws that one for every cat. So half of each batch are other cats (DreamBooth, Ruiz et
al. 2022, arXiv:2208.12242, Sec. 3.3). Custom Diffusion (Kumari et al. 2023, arXiv:2212.04488) also draws its own pictures smaller on an
empty canvas, and a mask says where the picture is:

    own   = mean over b of  ( sum of mask_b (e_b - eps_b)^2  /  number of entries that mask_b lets through )
    class = mean over all entries of ( e_pr - eps_pr )^2
    loss  = own + lam class

Entries are counted in all channels: a mask with n ones lets n C through. A mask without ones counts as 1 place, so that 0 is not
divided by 0.
"""
import torch


def prior_preservation_loss(e, eps, mask, e_pr, eps_pr, lam):
    """(B, C, h, w), (B, C, h, w), (B, 1, h, w) of 0 and 1, (B', C, h, w), (B', C, h, w), float -> scalar tensor"""
    raise NotImplementedError("ex28: write prior_preservation_loss() in tutorials/exercises/ex28_prior_preservation_loss.py: a "
                              "masked mean for each own picture, their mean, plus lam times the plain mean for the class")
