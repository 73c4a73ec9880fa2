import sys
from pathlib import Path

import pytest
import torch

from minidiff import devices

# The tests' tensors are tiny: handing them to several threads costs more than it saves, most of all on a busy machine.
torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent.parent / "papers"))        # each paper is a script, not a package


@pytest.fixture
def float32(monkeypatch):
    """For tests that compare digits: no training in bfloat16, even where it is fast."""
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda device: False)


def pytest_configure(config):
    config.addinivalue_line("markers", "parity: compares with the peers' own classes; needs the extra of that name")
    config.addinivalue_line("markers", "tutorials: runs a whole notebook; only where it is asked for, `pytest -m tutorials`")


def pytest_collection_modifyitems(config, items):
    """Without `-m tutorials` (or another expression with this word) the notebooks do not run: together they take minutes."""
    if "tutorials" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("tutorials")])
        items[:] = [item for item in items if not item.get_closest_marker("tutorials")]
