"""Exercise 26: one new word. About 15 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex26

Textual Inversion (Gal et al. 2022, arXiv:2208.01618) learns one row of the table of token embeddings. To zero the gradients of the other
rows is not enough: weight decay would still move them. So the table is not learned at all; the new row is a tensor of its own:

    embedding of a token = row  if its id is token_id,  table[id]  if not

The gradient goes into row, at every place where the token is, and never into the table, even if that could take one.
"""
import torch
import torch.nn.functional as F


def embed_learned_row(ids, table, row, token_id):
    """(B, L) int64, (V, D), (D,), int -> (B, L, D)"""
    raise NotImplementedError("ex26: write embed_learned_row() in tutorials/exercises/ex26_embed_learned_row.py: look all ids up in "
                              "the detached table, and choose row where the id is token_id")
