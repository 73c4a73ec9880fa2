"""ex14_causal_weights. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

lower = lambda s: torch.ones(s.shape[-2:], dtype=torch.bool).tril()
infinite = float("-inf")

WRONG = [
    ("zero after the softmax", "after the softmax", lambda s: s.softmax(-1) * lower(s)),
    ("upper triangle", "to its right", lambda s: s.masked_fill(~lower(s).T, infinite).softmax(-1)),
    ("zero before the softmax", "its exponential is 1", lambda s: s.masked_fill(~lower(s), 0).softmax(-1)),
    ("softmax over columns", "columns", lambda s: s.masked_fill(~lower(s), infinite).softmax(-2)),
    ("nothing masked", "nothing is masked", lambda s: s.softmax(-1)),
    ("not even itself", "each must see itself", lambda s: s.masked_fill(~lower(s).tril(-1), infinite).softmax(-1)),
    ("in place", "changed in place", lambda s: s.masked_fill_(~lower(s), infinite).softmax(-1)),
    ("a small number", "row i must be", lambda s: s.masked_fill(~lower(s), -5.0).softmax(-1)),
    ("subtracted, not much", "not some small number", lambda s: (s - 45.0 * ~lower(s)).softmax(-1)),
    ("one token too many", "row i must be",
     lambda s: s.masked_fill(~lower(s).tril(1) & ~torch.ones_like(lower(s)).tril(1), infinite).softmax(-1)),
    ("no softmax", "row i must be", lambda s: s.masked_fill(~lower(s), 0) / s.shape[-1]),
]

RIGHT = [
    lambda s: (s + torch.full(s.shape[-2:], infinite, dtype=s.dtype).triu(1)).softmax(-1),
    lambda s: torch.where(lower(s), s, torch.tensor(-1e9, dtype=s.dtype)).softmax(-1),
]
