"""Exercise 29: like a pet, unlike every pet. About 15 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex29

ConceptLab (Richardson et al. 2024, arXiv:2308.02669) learns a word for something that does not exist. It gets closer to a category, by
cosines s_pos, and away from its known members, by cosines s_neg: from all of them a little, and from the nearest one most. From a
certain similarity on there is nothing to gain (the authors' code): below tau_min a negative is far enough, above tau_max a positive near.

    n_j = max(s_neg_j, tau_min),     p_i = min(s_pos_i, tau_max)
    L   = ( mean of n_j + max of n_j ) / 2  +  lam ( 1 - mean of p_i )

Without any negatives, in mixing concepts, the first term is 0.
"""
import torch


def concept_loss(s_pos, s_neg, tau_min, tau_max, lam):
    """(P,), (N,) where N may be 0, float, float, float -> scalar tensor"""
    raise NotImplementedError("ex29: write concept_loss() in tutorials/exercises/ex29_concept_loss.py: clamp both, mean and max of "
                              "the negatives, one minus the mean of the positives")
