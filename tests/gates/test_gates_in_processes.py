"""Gates where real tools carry them: numbers of other libraries in workers, fixtures of all scopes, tests run again."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from inner_sessions import run_here

from robustsuite.core import checks
from robustsuite.core.gate import Gate
from robustsuite.pytest_plugin.robustness import Robustness

MODEL = '''
import pytest
import torch
from torch import nn


class Threshold(nn.Module):
    """The first pixel above one half."""

    def forward(self, x):
        z = 4 * (x[:, 0] - 0.5)
        return torch.stack([-z, z], 1)


def pixels(n, near):
    even, near = torch.arange(n) % 2 == 0, torch.arange(n) < near
    x = torch.where(near, torch.where(even, 0.45, 0.55), torch.where(even, 0.2, 0.8)).reshape(-1, 1)
    return x, (x[:, 0] > 0.5).long()


def hold(gates, near, floor=0.9):
    gates.assert_robust(Threshold(), pixels(100, near), attack="fgsm", ball=("linf", 0.1), at_least=floor)
'''
NUMBERS = """
import numpy as np
import pytest
import torch

from model import hold

FLOORS = [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5)]


@pytest.mark.parametrize("floor", FLOORS, ids=["float32", "float64", "tensor", "array"])
def test_holds(robustness, floor):
    hold(robustness, 0, floor)


@pytest.mark.parametrize("floor", FLOORS, ids=["float32", "float64", "tensor", "array"])
def test_does_not(robustness, floor):
    hold(robustness, 100, floor)


def test_another():
    pass
"""
PHASES = """
import pytest

from model import hold


@pytest.fixture(scope="module")
def hardened(robustness_session):
    hold(robustness_session, 0)


@pytest.fixture
def broken_before(robustness):
    hold(robustness, 100)


@pytest.fixture
def broken_after(robustness):
    yield
    hold(robustness, 100)


def test_first(hardened, robustness):
    hold(robustness, 2)


def test_second(hardened):
    pass


def test_setup(broken_before):
    pass


def test_teardown(broken_after):
    pass


def test_body(robustness_session):
    hold(robustness_session, 0)
"""
AGAIN = """
import pytest

from model import hold

TRIES = []


@pytest.fixture(scope="module")
def hardened(robustness_session):
    hold(robustness_session, 0, 0.8)


def test_flaky(hardened, robustness):
    TRIES.append(0)
    hold(robustness, 100 if len(TRIES) == 1 else 0)
"""
RERUN = '''
"""What pytest-rerunfailures 16 does: a test that failed is run and reported once more; here, of two files."""

import pytest
from _pytest.runner import runtestprotocol


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if item.path.stem not in ("test_kept", "test_made_again"):
        return None
    for _ in range(2):
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        failed = any(report.failed for report in reports)
        for report in reports:
            report.outcome = "rerun" if report.failed else report.outcome
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if not failed:
            break
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report):
    return ("rerun", "R", "RERUN") if report.outcome == "rerun" else None
'''


def written(folder, **files):
    for name, text in {"model": MODEL, **files}.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


@pytest.fixture(scope="module")
def in_a_worker(tmp_path_factory):
    """The folder and the process of a session with a worker, through which all that is told has to come."""
    after = AGAIN + "\n\ndef test_after():\n    pass\n"
    last = AGAIN.replace("flaky", "last")
    files = {"test_numbers": NUMBERS, "test_kept": after, "test_made_again": last, "conftest": RERUN}
    folder = written(tmp_path_factory.mktemp("worker"), **files)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junitxml=junit.xml"]
    known = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "250"}
    options = {"env": known, "capture_output": True, "text": True, "timeout": 200, "check": False}
    return folder, subprocess.run([*command, "-n1"], cwd=folder, **options)


def properties(folder, name):
    """All properties of the test, in order; the same name may stand there twice."""
    cases = [c for c in ElementTree.parse(folder / "junit.xml").iter("testcase") if c.get("name") == name]
    return [(p.get("name"), p.get("value")) for case in cases for p in case.iter("property")]


def outcomes(folder, name):
    return {key: value for key, value in properties(folder, name) if key.endswith("_outcome")}


def summary(said):
    told = said.split("robustsuite gates")[1].partition("\n")[2].split("\n===")[0].split("\n---")[0]
    return [tuple(line.split("  ")[:2]) for line in told.splitlines()]


def test_floors_of_other_libraries_in_a_worker(in_a_worker):
    folder, done = in_a_worker
    assert done.returncode == 1
    assert "4 failed, 8 passed, 2 rerun" in done.stdout, done.stdout
    for kind in ("float32", "float64", "tensor", "array"):
        assert outcomes(folder, f"test_does_not[{kind}]") == {"robustsuite_outcome": "failed"}
        assert ("robustsuite_at_least", "0.5") in properties(folder, f"test_holds[{kind}]")


def test_gates_of_fixtures_are_told_in_whatever_phase_they_are_asked(tmp_path, monkeypatch):
    """In a session without workers."""
    monkeypatch.syspath_prepend(written(tmp_path, test_phases=PHASES))
    done = run_here(tmp_path, f"--rootdir={tmp_path}", f"--junitxml={tmp_path}/junit.xml")
    sys.modules.pop("model", None)
    assert done.returncode == 1
    assert all(told in done.stdout for told in ("4 passed", "2 errors")), done.stdout
    assert sorted(summary(done.stdout)) == [
        ("failed", "test_phases.py::test_setup"),
        ("failed", "test_phases.py::test_teardown"),
        ("passed", "test_phases.py::test_body"),
        ("passed", "test_phases.py::test_first"),
        ("passed", "test_phases.py::test_first"),
    ]
    assert outcomes(tmp_path, "test_first") == {"robustsuite_outcome": "passed", "robustsuite_2_outcome": "passed"}
    assert outcomes(tmp_path, "test_second") == {}
    assert outcomes(tmp_path, "test_setup") == outcomes(tmp_path, "test_teardown") == {"robustsuite_outcome": "failed"}


def test_what_is_run_again_replaces_what_was_said(in_a_worker):
    """The module's fixture is made again in the second file only; in the first one, what it measured still counts."""
    folder, done = in_a_worker
    tests = ["test_kept.py::test_flaky", "test_made_again.py::test_last"]
    told = [line for line in summary(done.stdout) if line[1] in tests]
    assert told == [("passed", test) for test in tests for _ in range(2)]
    for name in ("test_flaky", "test_last"):
        told = properties(folder, name)
        assert len(told) == len(dict(told)), "no name stands there twice"
        assert [dict(told)[f"robustsuite_{at}at_least"] for at in ("", "2_")] == ["0.8", "0.9"]
        assert set(outcomes(folder, name).values()) == {"passed"}


def test_all_that_is_recorded_is_plain():
    told = []
    gates = Robustness("test", record=lambda name, value: told.append((name, value)))
    model = torch.nn.Linear(1, 2)
    model.weight.data, model.bias.data = torch.tensor([[-4.0], [4.0]]), torch.tensor([2.0, -2.0])
    x = torch.tensor([[0.2], [0.8]]).repeat(20, 1)
    verdict = gates.assert_robust(
        model, (x, (x[:, 0] > 0.5).long()), attack="fgsm", ball=("linf", np.float32(0.1)), at_least=np.float32(0.25)
    )
    assert {type(value) for _, value in told} <= {str, int, float, bool, type(None)}
    assert dict(told)["robustsuite_at_least"] == 0.25
    assert json.loads(json.dumps(verdict.gate.written()))["at_least"] == 0.25


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (torch.tensor(0.5), 0.5),
        (True, True),
        (None, None),
        ([1, 2], "[1, 2]"),
    ],
)
def test_recordable(value, plain):
    found = checks.recordable(value)
    assert found == plain
    assert type(found) is type(plain)


def test_a_gate_holds_a_plain_number():
    gate = Gate(metric="epsilon", at_most=np.float32(2.0))
    assert json.loads(json.dumps(gate.written())) == {"metric": "epsilon", "at_most": 2.0}
