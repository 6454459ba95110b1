"""Integers that are no integers, and paths that lead nowhere: the line, and the place that was tried."""

import re
from pathlib import Path

import pytest

from robustsuite.cli.given import dataset_spec
from robustsuite.core.errors import RequestError
from robustsuite.data.arrays import npz
from robustsuite.data.images import ImageTree
from robustsuite.models.checkpoint import load_into
from robustsuite.plugins.loading import file_digest, load_factory
from robustsuite.plugins.registry import load_file
from robustsuite.suite.load import load_suite


@pytest.fixture(autouse=True)
def _working_folder(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.mark.parametrize("given", ["1:30", "10:00", "1:00:00"])
@pytest.mark.parametrize("where", ["training: {epochs: GIVEN}", "attacks: [{pgd: {steps: GIVEN}}]", "seed: GIVEN"])
def test_a_time_of_day_is_no_number(where, given):
    Path("s.yaml").write_text(f"name: demo\ndataset: digits\nmodel: cnn\n{where.replace('GIVEN', given)}\n")
    with pytest.raises(RequestError, match=rf"s\.yaml:4: .*{given}"):
        load_suite("s.yaml")


@pytest.mark.parametrize("where", ["training: {epochs: 010}", "attacks: [{pgd: {steps: 010}}]", "seed: 010"])
def test_a_leading_zero_is_refused(where):
    Path("s.yaml").write_text(f"name: demo\ndataset: digits\nmodel: cnn\n{where}\n")
    with pytest.raises(RequestError, match=r"^s\.yaml:4: expected a number .*, got 010; write 10, or quote it"):
        load_suite("s.yaml")


SEEKERS = {
    "checkpoint": lambda name: load_into(None, f"{name}.pt"),
    "plug-in": lambda name: load_file(f"{name}.py"),
    "factory": lambda name: load_factory(f"{name}.py:build"),
    "suite": lambda name: load_suite(f"{name}.yaml"),
    "data": lambda name: dataset_spec(f"{name}.npz"),
    "arrays": lambda name: npz(Path(f"{name}.npz"), None, None),
    "images": lambda name: ImageTree.open(Path(name)),
    "digest": lambda name: file_digest(name),
}


@pytest.mark.parametrize("seek", SEEKERS.values(), ids=SEEKERS)
def test_a_path_that_leads_nowhere_is_named_whole(tmp_path, seek):
    told = re.escape(f"there is no {tmp_path / 'work' / 'sub' / 'missing'}")
    with pytest.raises(RequestError, match=rf"{told}[.\w]*; relative paths start in the working folder"):
        seek("sub/missing")
    with pytest.raises(RequestError, match=re.escape(f"there is no {tmp_path / 'missing'}")) as caught:
        seek(f"{tmp_path}/missing")
    assert "relative" not in str(caught.value)
