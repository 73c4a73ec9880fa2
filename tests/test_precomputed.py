"""What is computed once for every picture of a store."""
import torch

from minidiff.precomputed import fingerprint, once
from minidiff.toybox import store as stores


def test_a_fingerprint_changes_with_any_value_and_with_nothing_else():
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(4)
    assert fingerprint([a, b]) == fingerprint([a.clone(), b.clone().requires_grad_()]) == fingerprint([a.T.contiguous().T, b])
    for i in range(6):
        other = a.clone()
        other.view(-1)[i] += 1e-3
        assert fingerprint([other, b]) != fingerprint([a, b])


def test_numbers_are_computed_once_for_the_same_weights(tmp_path):
    stores.prepare(tmp_path, 5, workers=1)
    store, asked = stores.Store(tmp_path), []

    def rows(index):
        asked.append(index.tolist())
        return index[:, None] * torch.ones(3)

    first = once(store, "rows", [torch.ones(2)], rows, torch.float32, batch=2)
    assert asked == [[0, 1], [2, 3], [4]] and (first == torch.arange(5.0)[:, None].expand(5, 3).numpy()).all()
    assert (once(store, "rows", [torch.ones(2)], rows, torch.float32) == first).all() and len(asked) == 3
    once(store, "rows", [torch.zeros(2)], rows, torch.float32)                      # other weights
    assert len(asked) == 4
