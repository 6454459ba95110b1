import importlib
import sys

import pytest
from strangers import SUITE, Place, written

import robustsuite as rs


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
