import torch

from .tools import call, randn, same


def check_pool_end_of_text(pool_end_of_text):
    end, new = 7, 9                                                             # the added token has the larger id
    ids = torch.tensor([[5, 1, 2, end, end, end], [5, new, 4, 1, end, end], [5, 1, end, end, end, end], [5, 1, 2, 3, 4, end]])
    hidden, first = randn(4, 6, 3, seed=1), [3, 4, 2, 5]
    at = lambda places: torch.stack([hidden[b, p] for b, p in enumerate(places)])
    before_end = [hidden[b, :p + 1].mean(0) for b, p in enumerate(first)]
    got = call(pool_end_of_text, hidden, ids, end)
    assert getattr(got, "shape", ()) != (4, 4, 3), "every place was picked from every row: hidden[arange(B), place] pairs them"
    same(got, at(first), f"the first end tokens are at {first}; the states there must come back", {
        "this looks for the largest id, which an added token has: look for end_id": at([3, 1, 2, 5]),
        "this is the last place: texts are filled up with end tokens, take the first": at([5] * 4),
        "this is the token before the end token, which has not seen that the text ends": at([p - 1 for p in first]),
        "every row was read where the first text ends": at([first[0]] * 4),
        "this is a mean over the text; CLIP takes one state": torch.stack(before_end),
        "this is the start token, which has seen nothing else": at([0] * 4)})
