"""Exercise 27: merging concepts in closed form. About 30 minutes, difficulty 5 of 5.     pytest tutorials/exercises -k ex27

Custom Diffusion (Kumari et al. 2023, arXiv:2212.04488, Sec. 3.2, App. B) learns one matrix W_n for each concept. To have all in one W,
hold it to W_n on the words of concept n, the rows of C_n, and change as little as possible on the rows of C_reg, words of many captions:

    min over W of || W C_reg^T - W_0 C_reg^T ||^2     subject to     W C^T = V,     C = [C_1; ...; C_N],  V = [W_1 C_1^T ... W_N C_N^T]

With Lagrange multipliers that is solved by

    W = W_0 + (V - W_0 C^T) (D C^T)^-1 D,     D = C G^-1,     G = C_reg^T C_reg

G is nearly singular as a rule: compute in float64, and solve equations where the formula has inverses.
"""
import torch


def merge_concepts(W_0, Ws, Cs, C_reg):
    """(o, d), list of (o, d), list of (s_n, d), (s_reg, d), all float32 -> (o, d) float64"""
    raise NotImplementedError("ex27: write merge_concepts() in tutorials/exercises/ex27_merge_concepts.py: everything to float64; C, "
                              "V, G and D; then the last line of the formula")
