"""ex26_embed_learned_row. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch
import torch.nn.functional as F

is_it = lambda ids, new: (ids == new)[..., None]


def written_into(table, row, new):
    table = table.detach().clone()
    table[new] = row.detach()
    return table


def first_places(ids, new):
    here = ids == new
    return (here & (here.int().cumsum(1) == 1))[..., None]


def written_in_place(ids, table, row, new):
    table.data[new] = row.data
    return F.embedding(ids, table)


WRONG = [
    ("the row not used", "not used", lambda ids, table, row, new: F.embedding(ids, table.detach())),
    ("added", "was added", lambda ids, table, row, new: F.embedding(ids, table.detach()) + is_it(ids, new) * row),
    ("all later ids", "from token_id on", lambda ids, table, row, new: torch.where((ids >= new)[..., None], row, table.detach()[ids])),
    ("only the first place", "only the first place",
     lambda ids, table, row, new: torch.where(first_places(ids, new), row, table.detach()[ids])),
    ("the whole text", "all of a text",
     lambda ids, table, row, new: torch.where(is_it(ids, new).any(1, keepdim=True), row, table.detach()[ids])),
    ("the other way round", "everywhere but", lambda ids, table, row, new: torch.where(is_it(ids, new), table.detach()[ids], row)),
    ("row detached", "no gradient reaches row", lambda ids, table, row, new: torch.where(is_it(ids, new), row.detach(), table[ids])),
    ("a copy with the row in it", "no gradient reaches row",
     lambda ids, table, row, new: F.embedding(ids, written_into(table, row, new))),
    ("into the table itself", "changed in place", written_in_place),
    ("table not detached", "reaches the table", lambda ids, table, row, new: torch.where(is_it(ids, new), row, F.embedding(ids, table))),
    ("lined up with L", "do shapes and types fit", lambda ids, table, row, new: torch.where(ids == new, row, table.detach()[ids])),
    ("ids from 1", "table[id] everywhere else",
     lambda ids, table, row, new: torch.where(is_it(ids, new), row, table.detach()[(ids - 1).clamp(min=0)])),
]


def row_put_into_a_table(ids, table, row, new):
    return torch.cat([table[:new].detach(), row[None], table[new + 1:].detach()])[ids]


RIGHT = [row_put_into_a_table, lambda ids, table, row, new: is_it(ids, new) * row + ~is_it(ids, new) * table.detach()[ids]]
