"""One undisturbed run, that every disturbed one must equal in the end."""

import sys

import pytest
from fault_runs import load, play, table

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]  # processes are looked at through /proc, and memory is limited per process


@pytest.fixture(autouse=True)
def faults(tmp_path, monkeypatch):
    """Where plug-ins and tests meet; an own cache, and no thread more than asked for."""
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv("FAULTS", str(folder))
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


@pytest.fixture(scope="session")
def straight_run(tmp_path_factory):
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTS", str(folder))
        assert play(folder / "run").errors == 0
        keys = [cell.key for cell in _cells(load())]
    assert [row[0] for row in table(folder / "run")] == keys
    return folder / "run"


@pytest.fixture(scope="session")
def straight(straight_run):
    """Its table."""
    return table(straight_run)


def _cells(suite):
    from robustsuite.runner.plan import plan

    return plan(suite, "cpu").cells
