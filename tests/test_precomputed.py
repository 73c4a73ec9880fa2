"""What is computed once for every picture of a store."""
import weakref

import numpy as np
import pytest
import torch

from minidiff.precomputed import fingerprint, once, once_of
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


def test_what_is_computed_is_written_part_by_part_as_numpy_writes_it(tmp_path):
    stores.prepare(tmp_path, 1, workers=1)
    store, kept = stores.Store(tmp_path), []

    def compute(part):
        assert not any(ref() is not None for ref in kept[:-1])                     # only the last part may still be in memory
        rows = torch.full((part, 2, 3), part, dtype=torch.float16)
        kept.append(weakref.ref(rows))
        return rows
    array = once_of(store, "rows", [], [3, 1, 2], 6, compute)
    np.save(tmp_path / "whole.npy", np.repeat(np.array([3, 1, 2], np.float16), [3, 1, 2])[:, None, None] * np.ones((2, 3), np.float16))
    assert (tmp_path / "whole.npy").read_bytes() == next(tmp_path.glob("rows-*.npy")).read_bytes() and array.shape == (6, 2, 3)


def test_a_part_that_cannot_be_computed_leaves_no_file(tmp_path):
    stores.prepare(tmp_path, 5, workers=1)
    with pytest.raises(ZeroDivisionError):
        once(stores.Store(tmp_path), "rows", [], lambda index: torch.ones(len(index)) * (1 / int(index[0] == 0)), batch=2)
    assert not list(tmp_path.glob("rows-*")) and not list(tmp_path.glob(".rows-*"))
