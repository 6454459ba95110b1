"""Reports on disk that later ones must not fall behind: three outcomes, whole folders, several processes."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.errors import RequestError
from robustsuite.plugins import registry
from robustsuite.pytest_plugin import baselines
from robustsuite.pytest_plugin.robustness import Robustness
from robustsuite.report.report import Report
from robustsuite.results.deciding import GateFailure, Outcome


class Threshold(nn.Module):
    """Class 1 where the single pixel is above the border."""

    def __init__(self, border=0.5):
        super().__init__()
        self.border = nn.Parameter(torch.tensor(border))

    def forward(self, x):
        z = 4 * (x.flatten(1)[:, 0] - self.border)
        return torch.stack([-z, z], 1)


def measured(border, n=200):
    """Pixels at 0.02, 0.03 …: an attack of 0.1 moves those that lie within 0.1 of the border."""
    x = torch.linspace(0.02, 0.98, n).reshape(-1, 1)
    return rs.evaluate(Threshold(border), (x, (x[:, 0] > 0.5).long()), ["fgsm", "noise"], rs.Ball("linf", 0.1))


@pytest.fixture(scope="module")
def released():
    return measured(0.5)


@pytest.fixture(scope="module")
def worse():
    return measured(0.62)


def gate(root, **options):
    told = []
    return Robustness("t.py::test", root=root, record=lambda *pair: told.append(pair), **options), told


@pytest.fixture
def root(tmp_path, released):
    released.save(tmp_path / "reports" / "released")
    return tmp_path


def test_nothing_got_worse(root, released):
    held, told = gate(root)
    verdict = held.assert_no_regression(released, baseline="reports/released")
    assert verdict.outcome is Outcome.PASSED
    facts = dict(told)
    assert facts["robustsuite_outcome"] == "passed"
    assert facts["robustsuite_regressions"] == 0
    assert facts["robustsuite_tested"] > 0
    assert facts["robustsuite_baseline"] == str(root / "reports" / "released")


def test_something_got_worse(root, worse):
    held, told = gate(root, command="pytest t.py::test")
    with pytest.raises(GateFailure, match=r"^failed: against .*regression") as caught:
        held.assert_no_regression(worse, baseline="reports/released")
    text = str(caught.value)
    flips = r"\d+ samples worse and \d+ better of 200"
    assert re.search(rf"regression: \S+: \w+_accuracy 0\.\d+ -> 0\.\d+, {flips}, adjusted p \S+", text), text
    assert "to make this report the baseline: pytest t.py::test --robustsuite-update-baseline" in text
    assert dict(told)["robustsuite_regressions"] >= 1


def test_a_folder_is_as_good_as_a_report(root, worse):
    folder = worse.save(root / "now")
    with pytest.raises(GateFailure, match=r"^failed"):
        gate(root)[0].assert_no_regression(folder, baseline=root / "reports" / "released")


def test_an_improvement_passes(root, worse, released):
    worse.save(root / "bad")
    assert gate(root)[0].assert_no_regression(released, baseline="bad").outcome is Outcome.PASSED


def test_a_least_effect_and_chosen_metrics(root, worse):
    held, _ = gate(root)
    held.assert_no_regression(worse, baseline="reports/released", min_effect=0.5)
    with pytest.raises(GateFailure, match=r"regression: none: clean_accuracy|regression: fgsm"):
        held.assert_no_regression(worse, baseline="reports/released", metrics=["clean_accuracy"])


def test_without_a_baseline_nothing_is_known(tmp_path, released):
    held, told = gate(tmp_path)
    with pytest.raises(
        GateFailure, match=r"^inconclusive: there is no baseline at (.|\n)*--robustsuite-update-baseline"
    ):
        held.assert_no_regression(released, baseline="reports/released")
    assert dict(told)["robustsuite_outcome"] == "inconclusive"
    assert not (tmp_path / "reports").exists()


def test_other_samples_cannot_be_compared(root):
    x = torch.linspace(0.02, 0.98, 200).reshape(-1, 1)
    report = rs.evaluate(Threshold(), (x[:50], (x[:50, 0] > 0.5).long()), ["fgsm"], rs.Ball("linf", 0.1), classes=2)
    with pytest.raises(GateFailure, match=r"^inconclusive: .*Nothing could be compared"):
        gate(root)[0].assert_no_regression(report, baseline="reports/released")


@pytest.mark.parametrize("request_", [{"min_effect": 2}, {"alpha": 0}, {"metrics": ["robust_acuracy"]}])
def test_wrong_requests(root, released, request_):
    with pytest.raises(RequestError):
        gate(root)[0].assert_no_regression(released, baseline="reports/released", **request_)


# --- updating


def test_a_baseline_is_written_whole_and_compared_with(root, worse):
    held, told = gate(root, update=True)
    assert held.assert_no_regression(worse, baseline="reports/released").outcome is Outcome.PASSED
    assert "was written, and nothing was compared" in dict(told)["robustsuite_measured"]
    assert Report.load(root / "reports" / "released").records == Report(worse.records).records
    assert sorted(p.name for p in (root / "reports").iterdir()) == ["released"], "no scratch is left"
    assert gate(root)[0].assert_no_regression(worse, baseline="reports/released").outcome is Outcome.PASSED


def test_a_new_baseline_makes_its_folders(tmp_path, released):
    gate(tmp_path, update=True)[0].assert_no_regression(released, baseline="a/b/c")
    assert (tmp_path / "a" / "b" / "c" / "report.html").is_file()


def test_a_folder_of_something_else_is_left_alone(tmp_path, released):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "precious.py").write_text("x = 1\n")
    with pytest.raises(RequestError, match=r"baseline=.*src.*name another one"):
        gate(tmp_path, update=True)[0].assert_no_regression(released, baseline="src")
    assert (tmp_path / "src" / "precious.py").read_text() == "x = 1\n"


def test_a_report_in_which_something_raised_is_no_baseline(tmp_path, released):
    broken = replace(released.records[1], status="error", message="ValueError", metrics={})
    with pytest.raises(GateFailure, match=r"^failed: a report in which fgsm raised is no baseline"):
        gate(tmp_path, update=True)[0].assert_no_regression(Report([broken]), baseline="new")
    assert not (tmp_path / "new").exists()


def test_a_failed_write_leaves_the_old_baseline(root, worse, monkeypatch):
    before = (root / "reports" / "released" / "records.jsonl").read_bytes()
    lost = replace(worse.records[1], samples="samples/nowhere.safetensors")
    with pytest.raises(RequestError, match="nowhere"):
        gate(root, update=True)[0].assert_no_regression(Report([lost], worse.folder), baseline="reports/released")
    assert (root / "reports" / "released" / "records.jsonl").read_bytes() == before
    assert [p.name for p in (root / "reports").iterdir()] == ["released"]


def test_readers_never_see_half_a_baseline(root, released, worse):
    """Many writers and readers at once, each under the lock that processes share."""
    path = root / "reports" / "released"

    def write(report):
        return baselines.replace_baseline(path, report).verdict.outcome

    def read(_):
        return baselines.hold(released, path, min_effect=0.005, alpha=0.05, metrics=()).verdict.outcome

    with ThreadPoolExecutor(4) as pool:
        written = [pool.submit(write, report) for report in (worse, released) * 2]
        seen = [pool.submit(read, i) for i in range(6)]
        assert {future.result() for future in written} == {Outcome.PASSED}
        assert {future.result() for future in seen} <= {Outcome.PASSED, Outcome.FAILED}
    assert [p.name for p in (root / "reports").iterdir()] == ["released"]


@pytest.fixture
def _own_plugins(monkeypatch):
    registry.discover()
    monkeypatch.setattr(registry.attacks, "_entries", dict(registry.attacks._entries))


@pytest.mark.usefixtures("_own_plugins")
def test_an_attack_that_raises_now_is_a_regression(tmp_path):
    raising = []

    @rs.register.attack("raises-now", scenario="evasion", access="blind")
    @dataclass(frozen=True, kw_only=True)
    class RaisesNow:
        """Raise where it is told to."""

        def __call__(self, view, streams):
            if raising:
                raise ZeroDivisionError("planted")
            return view.x.clone()

    x = torch.linspace(0.02, 0.98, 200).reshape(-1, 1)
    data = (x, (x[:, 0] > 0.5).long())
    before = rs.evaluate(Threshold(), data, ["raises-now"], rs.Ball("linf", 0.1))
    gate(tmp_path, update=True)[0].assert_no_regression(before, baseline="old")
    raising.append(1)
    after = rs.evaluate(Threshold(), data, ["raises-now"], rs.Ball("linf", 0.1))
    with pytest.raises(GateFailure, match=r"^failed(.|\n)*the cell fails now: ZeroDivisionError: planted"):
        gate(tmp_path)[0].assert_no_regression(after, baseline="old")


# --- in pytest

CHECKS = """
import pytest
import torch

import robustsuite as rs
from torch import nn


@pytest.mark.parametrize("seed", [0, 1])
def test_no_regression(robustness, seed):
    x = torch.linspace(0.02, 0.98, 100).reshape(-1, 1)
    model = nn.Linear(1, 2)
    report = rs.evaluate(model, (x, (x[:, 0] > 0.5).long()), ["noise"], rs.Ball("linf", 0.1), seed=seed)
    robustness.assert_no_regression(report, baseline=f"reports/{seed}")
"""


@pytest.mark.slow
def test_baselines_are_written_by_several_workers(tmp_path):
    """From a folder below the root, at which baselines start."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "test_checks.py").write_text(CHECKS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n2", "--robustsuite-update-baseline"]
    run = {"cwd": tmp_path / "below", "env": {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "250"}}
    done = subprocess.run(command, **run, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout
    assert sorted(p.name for p in (tmp_path / "reports").iterdir()) == ["0", "1"]
    assert all(len(Report.load(tmp_path / "reports" / seed).records) == 2 for seed in "01")
    told = done.stdout.split("robustsuite gates")[1]
    assert len(re.findall(r"passed  below/test_checks.py::test_no_regression\[[01]\]  the baseline", told)) == 2
