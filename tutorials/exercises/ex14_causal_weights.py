"""Exercise 14: a text is read from left to right. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex14

In CLIP's text tower (Radford et al. 2021, arXiv:2103.00020, Sec. 2.4) a token sees itself and what is to its left. From scores, whose
row i says how much token i is interested in each token j, make weights:

    weights_ij = exp(scores_ij) / ( sum over j' <= i of exp(scores_ij') )     for j <= i,     0 for j > i
"""
import torch


def causal_weights(scores):
    """(B, h, L, L) -> (B, h, L, L), rows sum to 1"""
    raise NotImplementedError("ex14: write causal_weights() in tutorials/exercises/ex14_causal_weights.py: scores of later tokens "
                              "become -infinity, then comes the softmax")
