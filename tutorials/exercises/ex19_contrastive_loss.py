"""Exercise 19: how CLIP learns. About 15 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex19

Picture b and text b belong together. Every picture must find its text among the B texts, every text its picture. Radford et al. 2021,
arXiv:2103.00020, Fig. 3:

    logits_ij = exp(log_scale) cos( image_i, text_j )
    loss = ( cross entropy over each row + cross entropy over each column ) / 2,     the right answer of i is i; means over the batch
"""
import torch
import torch.nn.functional as F


def contrastive_loss(image, text, log_scale):
    """(B, E), (B, E) of any length, scalar tensor -> scalar tensor"""
    raise NotImplementedError("ex19: write contrastive_loss() in tutorials/exercises/ex19_contrastive_loss.py: unit vectors, a (B, "
                              "B) table of scaled cosines, cross entropies of its rows and of its columns")
