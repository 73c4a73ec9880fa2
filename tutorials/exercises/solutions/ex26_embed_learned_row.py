"""Exercise 26: one new word. About 15 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex26"""
import torch
import torch.nn.functional as F


def embed_learned_row(ids, table, row, token_id):
    """(B, L) int64, (V, D), (D,), int -> (B, L, D)"""
    return torch.where((ids == token_id)[..., None], row, F.embedding(ids, table.detach()))
