"""A number that stands because a gradient is masked: it stays in its column, and passes no gate by any door."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.cli.app import app
from robustsuite.core.gate import Gate
from robustsuite.pytest_plugin.robustness import Robustness
from robustsuite.report.report import Report
from robustsuite.results import gates
from robustsuite.results.deciding import GateFailure, Outcome

SUITE = """\
name: masked
dataset: {name: digits, train: 600, test: 80}
model: {name: mlp, hidden: [32]}
training: {epochs: 12, batch_size: 50, lr: 5.0e-3}
threat: {norm: linf, radius: 0.2, curve_samples: 0}
defenses: [none, {broken: {kind: detached, label: masked}}]
attacks: [noise, pgd: {steps: 8, step_size: 0.25}]
gates:
  - {defense: masked, attack: pgd, metric: robust_accuracy, at_least: 0.4}
  - {defense: masked, metric: robust_accuracy, at_least: 0.4}
  - {defense: masked, attack: pgd, metric: attack_success_rate, at_most: 0.6}
  - {defense: masked, attack: pgd, metric: robust_accuracy, at_least: 0.4, own: true}
"""
NET = """\
import torch
from torch import nn

class Masked(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    def forward(self, x):
        return self.net(x).detach()

def build(classes):
    return Masked(classes)
"""


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def told(output):
    words = ("passed:", "failed:", "inconclusive:")
    return [line for line in output.splitlines() if line.startswith(words)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a masked model beside its undefended twin, and what the command said."""
    folder = tmp_path_factory.mktemp("masked")
    (folder / "suite-file.yaml").write_text(SUITE)
    done = call("run", folder / "suite-file.yaml", "--workers", 1, "--out", folder / "run", "-q")
    return folder / "run", done


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run[0], tmp_path / "run")


def test_a_suites_gate_judges_the_attack_with_its_follow_ups(run):
    folder, done = run
    assert done.exit_code == 1
    named, verdict, success, own = told(done.stdout)
    assert named.startswith("failed: masked/pgd: robust_accuracy with follow-up attacks (pgd alone: 0.")
    assert verdict.startswith("failed: masked/worst-case: robust_accuracy 0.0")
    assert success.startswith("failed: masked/pgd: attack_success_rate with follow-up attacks (pgd alone: 0.")
    assert own.startswith("passed: masked/pgd: robust_accuracy (own: pgd alone, without its follow-up attacks) 0.")
    for suffix in ("", "_followed_up"):
        (found,) = [r for r in Report.load(folder).records if (r.defense, r.attack) == ("masked", "pgd")]
        value = found.metrics["robust_accuracy" + suffix].value
        assert value < 0.05 if suffix else value > 0.85


def test_the_column_holds_the_attacks_number_and_the_verdict_the_truth(run):
    table = Report.load(run[0]).comparison
    assert table.cell("masked", "pgd").value > 0.85
    assert table.cell("masked", "verdict").value < 0.05
    masked, plain = (table.cell(row, "pgd") for row in ("masked", "none"))
    assert masked.judged < 0.05
    assert masked.best == (masked.judged > plain.value), "a masked gradient is ranked by what follow-ups left"
    assert [c.title for c in table.columns if c.scenario == "evasion"] == ["verdict", "noise", "pgd"]


def test_report_and_page_say_the_same_as_the_run(run):
    folder, done = run
    again = call("report", folder)
    assert (again.exit_code, told(again.stdout)) == (1, told(done.stdout))
    page = (folder / "report.html").read_text()
    assert page.count('class="gate-failed"') == 3
    assert page.count('class="gate-passed"') == 1


def test_evaluate_does_not_let_it_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    torch.manual_seed(0)
    data = rs.load_data("digits", samples=300)
    linear = nn.Linear(64, 10)
    optimizer = torch.optim.Adam(linear.parameters(), 3e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(linear(data.inputs().flatten(1)), data.y).backward()
        optimizer.step()
    torch.save({f"net.1.{name}": value for name, value in linear.state_dict().items()}, "weights.pt")
    asked = ["--data", "digits", "--radius", 0.2, "--samples", 60, "--attack", "pgd(steps=8, step_size=0.25)", "-q"]
    head = ["evaluate", "net.py:build", "--checkpoint", "weights.pt", *asked]
    named = "pgd:robust_accuracy>=0.4"
    for gate, code in (("robust_accuracy>=0.4", 1), (named, 1), (f"{named} own", 0)):
        assert call(*head, "--gate", gate).exit_code == code, gate


def test_a_test_does_not_let_it_pass():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 4))
    x = torch.rand(150, 20, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(1)

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x).detach()

    holds = Robustness("test")
    asked = {"attack": "pgd(steps=8, step_size=0.25)", "ball": ("linf", 0.3), "at_least": 0.4}
    with pytest.raises(GateFailure, match=r"failed: robust_accuracy with follow-up attacks \(pgd alone: 0\.\d+\) 0\.0"):
        holds.assert_robust(Masked(), (x, y), **asked)
    verdict = holds.assert_robust(Masked(), (x, y), own=True, **asked)
    assert "(own: pgd alone, without its follow-up attacks)" in verdict.message


def test_own_is_about_one_attack():
    assert str(Gate.parse("pgd: robust_accuracy >= 0.4 own")) == "pgd:robust_accuracy>=0.4 own"
    for text in ("robust_accuracy>=0.4 own", "worst-case:robust_accuracy>=0.4 own"):
        with pytest.raises(rs.RequestError, match="expected an attack beside own"):
            Gate.parse(text)


def test_a_run_that_ended_before_its_strongest_attack_passes_nothing(copied):
    """What the suite planned and no record holds was not run, whoever removed it."""
    path = copied / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not ('"defense":"masked"' in line and '"attack":"pgd"' in line)]
    assert len(kept) == len(lines) - 1
    path.write_text("".join(kept))
    found = call("report", copied)
    assert found.exit_code == 3
    named, verdict, success, own = told(found.stdout)
    assert all(line.startswith("inconclusive: ") for line in (named, verdict, success, own))
    assert "pgd has status not run" in named
    assert "pgd is not part of it (not run)" in verdict
    assert Report.load(copied).comparison.cell("masked", "pgd").text == "not run"
    assert call("report", copied, "--format", "junit").exit_code == 3
    judged = gates.judge(gates.load(copied), Report.load(copied))
    assert {v.outcome for v in judged} == {Outcome.INCONCLUSIVE}


def test_a_damaged_sample_file_supports_no_verdict(copied):
    (pgd,) = [r for r in Report.load(copied).records if (r.defense, r.attack) == ("masked", "noise")]
    with (copied / pgd.samples).open("ab") as file:
        file.write(b" ")
    verdict = told(call("report", copied).stdout)[1]
    assert verdict.startswith("failed: "), "what is left of the other attacks already contradicts the floor"
    gate = Gate(defense="none", metric="robust_accuracy", at_most=1.0)
    assert gates.judge([gate], Report.load(copied))[0].outcome is Outcome.PASSED
    asked = Gate(defense="masked", metric="robust_accuracy", at_least=0.0)
    (found,) = gates.judge([asked], Report.load(copied))
    assert "noise is not part of it" in found.message


def test_saving_a_report_writes_no_record_of_what_was_not_run(copied, tmp_path):
    path = copied / "records.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    report = Report.load(copied)
    assert sum(record.status == "not_run" for record in report.records) == 3
    report.save(tmp_path / "again")
    assert len((tmp_path / "again" / "records.jsonl").read_text().splitlines()) == 3
    assert len(Report.load(tmp_path / "again")) == 6
