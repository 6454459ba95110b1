"""One place, one straight run and one cluster for all tests here."""

import pytest
from small_runs import Place, TwoNodes, facts


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="session")
def straight(place):
    """One local worker's run."""
    place.run("straight", workers="1")
    return facts(place.root / "straight")


@pytest.fixture(scope="session")
def cluster():
    pytest.importorskip("ray", reason="the ray extra is not installed")
    found = TwoNodes()
    yield found
    found.stop()
