import copy
import importlib
import sys

import numpy as np
import pytest
import torch
from small_requests import NETWORK
from strangers import SUITE, Place, written

import robustsuite as rs
from robustsuite.testing import tiny_network, tiny_samples


def _forget():
    """Files of other tests bear the same names as a stranger's."""
    for name in [*sys.modules]:
        if name.partition(".")[0] in ("evil", "link", "linked", "own", "nets", "tools", "good"):
            del sys.modules[name]


@pytest.fixture
def place(tmp_path, monkeypatch):
    made = Place(tmp_path)
    monkeypatch.chdir(made.here)
    monkeypatch.setenv("HOME", str(made.there))
    others = str(tmp_path.parent)  # folders that other tests left on the path
    monkeypatch.setattr(sys, "path", [*(part for part in sys.path if not part.startswith(others)), str(made.there)])
    importlib.invalidate_caches()
    _forget()
    yield made
    _forget()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run to put a stranger's suite into."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "s.yaml").write_text(written(SUITE))
    rs.run(folder / "s.yaml", folder / "run")
    return folder / "run"


@pytest.fixture
def model():
    return copy.deepcopy(tiny_network())


@pytest.fixture
def data():
    """Inputs `(120, 1, 8, 8)` in [0, 1] and labels of four classes."""
    samples = tiny_samples(120, first=10_000)
    return samples.x.clone(), samples.y.clone()


@pytest.fixture
def on_disk(tmp_path, monkeypatch, data):
    """A working folder with a network file, its weights and an .npz of the data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETWORK)
    torch.manual_seed(0)
    torch.save({"1.weight": torch.randn(4, 64), "1.bias": torch.zeros(4)}, tmp_path / "weights.pt")
    np.savez(tmp_path / "data.npz", x=data[0].numpy(), y=data[1].numpy())
    return tmp_path
