"""The plugin in real pytest processes: outcomes, words, properties, files, and nothing where it is not used."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from inner_sessions import run_here
from torch import nn
from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.core.intervals import clopper_pearson
from robustsuite.evaluation.looks import looks
from robustsuite.report.report import Report
from robustsuite.results.deciding import samples_needed

GATES = '''
"""Exactly solvable gates."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import robustsuite as rs


class Threshold(nn.Module):
    """The first pixel above one half; one that leans on the last pixel too is easier to move over it."""

    def __init__(self, leans=0.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(4.0))
        self.leans = leans

    def forward(self, x):
        x = x.flatten(1) - 0.5
        z = self.gain * (x[:, 0] + self.leans * x[:, -1])
        return torch.stack([-z, z], 1)


def pixels(n, near):
    even = torch.arange(n) % 2 == 0
    near = torch.arange(n) < near
    x = torch.where(near, torch.where(even, 0.45, 0.55), torch.where(even, 0.2, 0.8)).reshape(-1, 1)
    return x, (x[:, 0] > 0.5).long()


@rs.register.attack("raises", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class Raises:
    """Raise."""

    def __call__(self, view, streams):
        raise ZeroDivisionError("planted")


BALL = ("linf", 0.1)


@pytest.mark.security
def test_passes(robustness):
    robustness.assert_robust(Threshold(), pixels(200, 0), attack="fgsm", ball=BALL, at_least=0.9)


@pytest.mark.security
def test_fails(robustness):
    robustness.assert_robust(Threshold(), pixels(200, 150), attack="fgsm", ball=BALL, at_least=0.5)


@pytest.mark.security
def test_cannot_tell(robustness):
    robustness.assert_robust(Threshold(), pixels(100, 40), attack="fgsm", ball=BALL, at_least=0.55)


@pytest.mark.parametrize("share", ["1/2", "1:2", "1 2"])
def test_named_alike(robustness, share):
    robustness.assert_robust(Threshold(), pixels(200, 0), attack="fgsm", ball=BALL, at_least=0.9)


def test_twice_elsewhere(robustness, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for radius in (0.01, 0.1):
        robustness.assert_robust(Threshold(), pixels(100, 5), attack="fgsm", ball=("linf", radius), at_least=0.8)
    assert list(tmp_path.iterdir()) == []


def test_attack_raises(robustness):
    robustness.assert_robust(Threshold(), pixels(20, 0), attack="raises", ball=BALL, at_least=0.5)


@pytest.mark.parametrize("leans", [0, 3])
def test_no_regression(robustness, leans):
    x, y = pixels(200, 20)
    x[150:] = torch.where(y[150:, None] == 1, 1.0, 0.0)
    x = torch.cat([x, torch.full((200, 1), 0.5)], 1)
    report = rs.evaluate(Threshold(leans), (x, y), ["fgsm"], rs.Ball(*BALL))
    robustness.assert_no_regression(report, baseline="reports/released")


def test_does_not_ask():
    pass
'''


def run_pytest(folder, *arguments, **environment):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    known = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "250", **environment}
    return subprocess.run(command, cwd=folder, env=known, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The file above in two workers, its JUnit file and its reports."""
    folder = tmp_path_factory.mktemp("gates")
    (folder / "test_gates.py").write_text(GATES)
    (folder / "pytest.ini").write_text("[pytest]\n")
    x = torch.where(torch.arange(200) < 20, 0.45, 0.2)
    x[150:] = 0.0
    x = torch.where(torch.arange(200) % 2 == 0, x, 1 - x)
    x = torch.stack([x, torch.full((200,), 0.5)], 1)
    model = nn.Linear(2, 2)  # class 1 where the first pixel is above one half
    model.weight.data = torch.tensor([[-4.0, 0.0], [4.0, 0.0]])
    model.bias.data = torch.tensor([2.0, -2.0])
    released = rs.evaluate(model, (x, (x[:, 0] > 0.5).long()), ["fgsm"], rs.Ball("linf", 0.1))
    released.save(folder / "reports" / "released")
    options = ["--strict-markers", "--junitxml=junit.xml", "--robustsuite-report=seen", "-n2", "-rfE"]
    done = run_pytest(folder, *options, "test_gates.py")
    return folder, done


def cases(folder):
    found = {}
    for case in ElementTree.parse(folder / "junit.xml").iter("testcase"):
        properties = {p.get("name"): p.get("value") for p in case.iter("property")}
        failure = case.find("failure")
        found[case.get("name")] = properties, None if failure is None else failure.get("message")
    return found


def test_counts(ran):
    _, done = ran
    assert done.returncode == 1
    assert "4 failed, 7 passed" in done.stdout, done.stdout
    assert "warnings" not in done.stdout.splitlines()[-1], "the marker is known"


def test_a_gate_that_passes_says_what_it_measured(ran):
    properties, failure = cases(ran[0])["test_passes"]
    assert failure is None
    assert properties["robustsuite_outcome"] == "passed"
    assert properties["robustsuite_robust_accuracy_value"] == "1.0"
    assert properties["robustsuite_robust_accuracy_n"] == properties["robustsuite_samples_used"] == "100"
    assert properties["robustsuite_samples_given"] == "200"
    assert 0.9 < float(properties["robustsuite_robust_accuracy_low"]) < 1
    assert properties["robustsuite_robust_accuracy_high"] == "1.0"
    assert properties["robustsuite_at_least"] == "0.9"


def test_a_gate_that_fails(ran):
    properties, failure = cases(ran[0])["test_fails"]
    assert properties["robustsuite_outcome"] == "failed"
    assert re.search(
        r"failed: robust_accuracy 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] on 100 samples, asked for at least 0.5", failure
    )
    assert "judged 100 of the 200 samples given, which settles it" in failure
    assert "attack fgsm(" in failure
    assert "linf ball of radius 0.1, seed 0" in failure


def test_a_gate_that_cannot_tell(ran):
    folder, done = ran
    properties, failure = cases(folder)["test_cannot_tell"]
    more = samples_needed(0.6, 0.55, more_than=100, bounds=lambda k, n: looks(n)[-1].interval(k)) - 100
    low, high = clopper_pearson(60, 100)
    assert properties["robustsuite_outcome"] == "inconclusive"
    assert (
        f"inconclusive: robust_accuracy 0.600 [{low:.3f}, {high:.3f}] on 100 samples, asked for at least 0.55; "
        f"about {more} more" in failure
    )
    assert "inconclusive: robust_accuracy 0.600" in done.stdout
    assert "robustness.py:" not in done.stdout, "the trace ends at the user's own line"


def test_the_command_that_shows_more_does(ran):
    _, failure = cases(ran[0])["test_cannot_tell"]
    command = shlex.split(failure.split("see more: ")[1])
    assert command[:2] == ["robustsuite", "report"]
    from robustsuite.cli.app import app

    shown = CliRunner().invoke(app, command[1:])
    assert shown.exit_code == 0, shown.output
    assert "60.0" in shown.output


def test_what_was_measured_is_written_for_every_gate(ran):
    folder, _ = ran
    written = sorted(p.name for p in (folder / "seen").iterdir())
    assert len(written) == 11
    alike = [name for name in written if "named_alike" in name]
    assert len(alike) == 3
    assert {"test_gates.test_twice_elsewhere", "test_gates.test_twice_elsewhere-2"} <= set(written)
    for name in written:
        inside = {p.name for p in (folder / "seen" / name).iterdir()}
        assert inside >= {"records.jsonl", "results.csv", "table.md", "report.html"}
    report = Report.load(folder / "seen" / "test_gates.test_cannot_tell")
    assert report.records[1].metrics["robust_accuracy"].value == 0.6


def test_two_gates_in_one_test_keep_their_properties_apart(ran):
    properties, _ = cases(ran[0])["test_twice_elsewhere"]
    assert properties["robustsuite_robust_accuracy_value"] == "1.0"
    assert properties["robustsuite_2_robust_accuracy_value"] == "0.95"


def test_an_attack_that_raises_shows_its_traceback(ran):
    folder, _ = ran
    _, failure = cases(folder)["test_attack_raises"]
    assert "the attack 'raises' raised ZeroDivisionError: planted" in failure
    assert "Traceback" in failure
    record = Report.load(folder / "seen" / "test_gates.test_attack_raises").records[1]
    assert record.status == "error"


def test_a_regression_across_workers(ran):
    folder, _ = ran
    properties, failure = cases(folder)["test_no_regression[3]"]
    assert properties["robustsuite_outcome"] == "failed"
    assert int(properties["robustsuite_regressions"]) >= 1
    assert properties["robustsuite_baseline"] == str(folder / "reports" / "released")
    assert "regression: fgsm: robust_accuracy 0.9 -> 0.25, 130 samples worse and 0 better of 200" in failure
    properties, failure = cases(folder)["test_no_regression[0]"]
    assert (properties["robustsuite_outcome"], failure) == ("passed", None)


def test_every_gate_has_a_line_in_the_summary(ran):
    _, done = ran
    told = done.stdout.split("robustsuite gates")[1].partition("\n")[2].split("\n===")[0].splitlines()
    tests = [line.split("  ")[:2] for line in told]
    assert len(told) == 10, "one test raised before it was judged, and one asked twice"
    assert ["inconclusive", "test_gates.py::test_cannot_tell"] in tests
    assert ["failed", "test_gates.py::test_no_regression[3]"] in tests
    assert tests.count(["passed", "test_gates.py::test_twice_elsewhere"]) == 2
    assert any("robust_accuracy 0.600 [" in line for line in told)


def test_a_test_that_does_not_ask_has_no_properties(ran):
    assert cases(ran[0])["test_does_not_ask"] == ({}, None)


SEES = """
import sys


def pytest_unconfigure():
    heavy = ["torch", "art", "opacus", "pandas", "numpy", "plotly", "robustsuite.results", "robustsuite.api"]
    print("loaded:", [name for name in heavy if name in sys.modules], "robustsuite.pytest_plugin.plugin" in sys.modules)
"""


def test_inert_until_used(tmp_path):
    (tmp_path / "conftest.py").write_text(SEES)
    (tmp_path / "test_empty.py").write_text("def test_nothing():\n    pass\n")
    for arguments in (["--collect-only"], []):
        done = run_pytest(tmp_path, "-s", *arguments)
        assert done.returncode == 0, done.stdout
        assert "loaded: [] True" in done.stdout


@pytest.mark.parametrize("count", ["0", "-3", "many", "1.5"])
def test_a_wrong_number_of_samples_is_a_usage_error(tmp_path, count):
    done = run_here(tmp_path, f"--robustsuite-samples={count}")
    assert done.returncode == 4
    assert f"expected an integer of at least 1, got '{count}'" in done.stderr


def test_help_and_markers_name_the_plugin():
    assert "--robustsuite-samples=N" in run_here("--help").stdout
    assert "@pytest.mark.security: a robustness or security check" in run_here("--markers").stdout


EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "checks" / "test_three_gates.py"


def test_the_three_gates_of_the_example(tmp_path, monkeypatch):
    """Without a report folder, the way to see more is the test itself with one."""
    monkeypatch.chdir(tmp_path)
    done = run_here(EXAMPLE, f"--rootdir={EXAMPLE.parent}", "--robustsuite-samples=290")
    assert "2 failed, 1 passed" in done.stdout, done.stdout
    assert "GateFailure: failed: robust_accuracy" in done.stdout
    assert "GateFailure: inconclusive: robust_accuracy" in done.stdout
    assert "more samples would probably settle it" in done.stdout
    assert "judged 73 of the 300 samples given, which settles it" in done.stdout
    shown = f"{os.path.relpath(EXAMPLE, tmp_path)}::test_withstands_large_changes --robustsuite-report robustness"
    assert f"see more: pytest {shown}" in done.stdout


def test_the_example_is_not_collected_by_default():
    root = EXAMPLE.parent.parent.parent
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert not any(EXAMPLE.is_relative_to(root / path) for path in settings["testpaths"])
