"""ex15_pool_end_of_text. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

rows = torch.arange
first_end = lambda ids, end: (ids == end).int().argmax(1)

WRONG = [
    ("the largest id", "largest id", lambda hidden, ids, end: hidden[rows(len(ids)), ids.argmax(1)]),
    ("the last place", "last place", lambda hidden, ids, end: hidden[:, -1]),
    ("before the end", "before the end token", lambda hidden, ids, end: hidden[rows(len(ids)), first_end(ids, end) - 1]),
    ("where the first text ends", "first text ends", lambda hidden, ids, end: hidden[:, first_end(ids, end)[0]]),
    ("a mean", "mean over the text",
     lambda hidden, ids, end: torch.stack([h[:p + 1].mean(0) for h, p in zip(hidden, first_end(ids, end))])),
    ("the start token", "start token", lambda hidden, ids, end: hidden[:, 0]),
    ("every place of every row", "pairs them", lambda hidden, ids, end: hidden[:, first_end(ids, end)]),
    ("a maximum", "states there must come back", lambda hidden, ids, end: hidden.amax(1)),
    ("the place after the end", "states there must come back",
     lambda hidden, ids, end: hidden[rows(len(ids)), (first_end(ids, end) + 1).clamp(max=ids.shape[1] - 1)]),
    ("an id for a place", "do shapes and types fit", lambda hidden, ids, end: hidden[rows(len(ids)), torch.full((len(ids),), end)]),
]


def pooled_in_a_loop(hidden, ids, end):
    return torch.stack([h[row.tolist().index(end)] for h, row in zip(hidden, ids)])


RIGHT = [pooled_in_a_loop, lambda hidden, ids, end: hidden[(ids == end) & ((ids == end).cumsum(1) == 1)]]
