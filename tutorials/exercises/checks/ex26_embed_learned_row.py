import torch

from .tools import call, gradient, randn, same


def check_embed_learned_row(embed_learned_row):
    table, row = randn(8, 3, seed=1).requires_grad_(), randn(3, seed=2).requires_grad_()
    ids, new = torch.tensor([[1, 5, 2, 5], [3, 4, 6, 7], [5, 0, 1, 1]]), 5
    want = table.detach()[ids]
    old = want.clone()
    want[ids == new] = row.detach()
    first = old.clone()
    first[0, 1] = first[2, 0] = row.detach()
    got = call(embed_learned_row, ids, table, row, new)
    same(got, want, "row must stand where the id is token_id, and table[id] everywhere else", {
        "the new row is not used": old,
        "row was added to the old one; it takes its place": want + torch.where((ids == new)[..., None], old, 0),
        "all ids from token_id on got the row": torch.where((ids >= new)[..., None], row, old),
        "only the first place of each text got the row: a word may come twice": first,
        "all of a text got the row, because the token is in it": torch.where((ids == new).any(1)[:, None, None], row, old),
        "row stands everywhere but where it should": torch.where((ids == new)[..., None], old, row)})
    strength = randn(3, 4, 3, seed=3)
    cut = "no gradient reaches row, which is all that is learned: it was copied, detached or written into another tensor's .data"
    same(gradient(strength * got, row, cut), strength[ids == new].sum(0), cut)
    assert not gradient(strength * got, table, cut).any(), "a gradient reaches the table, whose rows would all move: detach it"
