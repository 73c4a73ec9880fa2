import sys
from pathlib import Path

import torch

# The tests' tensors are tiny: handing them to several threads costs more than it saves, most of all on a busy machine.
torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent.parent / "papers"))        # each paper is a script, not a package


def pytest_configure(config):
    config.addinivalue_line("markers", "parity: compares with the peers' own classes; needs the extra of that name")
