"""Gates on the command line: what is printed, the exit code, and what the folder keeps."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.core.gate import Gate
from robustsuite.plugins import registry
from robustsuite.results import gates

SUITE = """\
name: tiny
dataset: {name: digits, train: 200, test: 100}
model: {name: logistic}
training: {epochs: 2, batch_size: 50, lr: 1.0e-2, validation: 0.0}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
attacks: [noise, fgsm]
"""
NET = """\
import torch
from torch import nn

def build(classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    net[1].weight.data = 9 * torch.eye(classes, 64)  # it names the pixel that is lit, whatever the attack
    nn.init.zeros_(net[1].bias)
    return net
"""
BROKEN = """\
from dataclasses import dataclass
from robustsuite.plugins.registry import register

@register.attack("gate-test-broken", scenario="evasion", access="blind")
@dataclass(frozen=True, kw_only=True)
class Broken:
    '''Raise.'''
    def __call__(self, view, streams):
        raise ArithmeticError("the plug-in broke")
"""


@pytest.fixture(autouse=True)
def _working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry.discover()
    monkeypatch.setattr(registry.attacks, "_entries", dict(registry.attacks._entries))
    Path("net.py").write_text(NET)
    lit = np.arange(100) % 10
    x = np.zeros((100, 64), np.float32)
    x[np.arange(100), lit] = 1
    np.savez("own.npz", x=x.reshape(100, 1, 8, 8), y=np.where(np.arange(100) < 40, lit, (lit + 1) % 10))
    Path("broken.py").write_text(BROKEN)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def evaluate(*more, samples=100, attacks=("noise",)):
    named = [part for attack in attacks for part in ("--attack", attack)]
    head = ["evaluate", "net.py:build", "--data", "own.npz", "--radius", 0.05, "--samples", samples, "-q"]
    return call(*head, *named, *more)


def verdicts(done):
    """Lines of the gates; 40 of 100 have the label of the pixel that is lit, so many are robust whatever happens."""
    words = ("passed:", "failed:", "inconclusive:")
    return [line for line in done.stdout.splitlines() if line.startswith(words)]


@pytest.mark.parametrize(
    ("gate", "code", "line"),
    [
        ("robust_accuracy>=0.3", 0, "passed: worst-case: robust_accuracy 0.400 [0.3"),
        ("robust_accuracy>=0.6", 1, "failed: worst-case: robust_accuracy 0.400"),
        ("robust_accuracy<=0.6", 0, "passed: worst-case: robust_accuracy 0.400"),
        ("noise:robust_accuracy>=38/100", 3, "inconclusive: noise: robust_accuracy 0.400"),
        ("clean_accuracy>=0.6", 1, "failed: clean_accuracy 0.400"),
        ("parameters<=650", 0, "passed: parameters 650, asked for at most 650"),
    ],
)
def test_exit_codes(gate, code, line):
    done = evaluate("--gate", gate)
    assert done.exit_code == code, done.output
    (told,) = verdicts(done)
    assert told.startswith(line)


def test_a_failure_outranks_what_is_inconclusive():
    done = evaluate("--gate", "robust_accuracy>=0.4", "--gate", "parameters<=3", "--gate", "clean_accuracy>=0.01")
    assert [line.partition(":")[0] for line in verdicts(done)] == ["inconclusive", "failed", "passed"]
    assert done.exit_code == 1


def test_a_cell_that_raised_outranks_an_inconclusive_gate():
    broken = ("--plugin", "broken.py", "--gate", "robust_accuracy>=0.01")
    done = evaluate(*broken, attacks=["gate-test-broken", "noise"])
    (told,) = verdicts(done)
    assert told.startswith("inconclusive: worst-case: robust_accuracy 0.400")
    assert "gate-test-broken is not part of it (error)" in told
    assert done.exit_code == 1
    (told,) = verdicts(
        evaluate(
            "--plugin", "broken.py", "--gate", "gate-test-broken:robust_accuracy>=0.01", attacks=["gate-test-broken"]
        )
    )
    assert told.startswith("inconclusive: gate-test-broken: robust_accuracy asked for at least 0.01; ")
    assert "has status error: ArithmeticError: the plug-in broke" in told


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ("robust_accuracy>0.4", "expected a gate such as 'robust_accuracy>=0.4', got gate='robust_accuracy>0.4'"),
        ("robust_acuracy>=0.4", "--gate 'robust_acuracy>=0.4': expected a metric that is measured"),
        ("pgd:robust_accuracy>=0.4", "got attack='pgd'; allowed: none, noise"),
        ("worst-case:clean_accuracy>=0.4", "expected a metric of 'worst-case'"),
        ("noise:robust_accuracy>=0.4 alone", "expected a number or a quotient"),
        ("noise:inversion_accuracy>=0.4", "a metric of 'noise', which plays evasion"),
        ("robust_accuracy>=40", "40 % is written 0.4"),
        ("robust_accuracy>=nan", "expected a number or a quotient"),
    ],
)
def test_nonsense_is_refused_before_any_work(gate, told):
    done = call(
        "evaluate", "no_such_file.py:build", "--data", "digits", "--radius", 1, "--attack", "noise", "--gate", gate
    )
    assert done.exit_code == 2
    assert told in done.output
    assert "no_such_file" not in done.output


def test_gates_are_kept_beside_the_records():
    evaluate("--gate", "noise:robust_accuracy>=0.04", "--out", "seen")
    assert gates.load("seen") == (Gate(metric="robust_accuracy", attack="noise", at_least=0.04),)
    from robustsuite.report.report import Report

    report = Report.load("seen")
    (verdict,) = gates.judge(gates.load("seen"), report)
    assert verdict.outcome.value == "passed"
    report.save("copy")
    assert gates.load("copy") == gates.load("seen")
    evaluate("--out", "seen")
    assert gates.load("seen") == ()


def test_a_run_is_held_against_the_gates_of_its_suite():
    suite = SUITE + "gates:\n  - {defense: none, attack: fgsm, metric: robust_accuracy, at_least: 0.01}\n"
    Path("tiny.yaml").write_text(suite)
    done = call("run", "tiny.yaml", "--workers", 1, "-q")
    assert done.exit_code == 0, done.output
    (line,) = verdicts(done)
    assert line.startswith("passed: fgsm: robust_accuracy")
    # Another threshold needs no new measurement: nothing is played again.
    done = call("run", "tiny.yaml", "--workers", 1, "--set", "gates.0.at_least=0.99")
    assert done.exit_code == 1, done.output
    assert verdicts(done)[0].startswith("failed: fgsm: robust_accuracy")
    assert "0 cells run, 3 reused" in done.stderr
    value = float(verdicts(done)[0].split("robust_accuracy ")[1].split(" ")[0])
    done = call("run", "tiny.yaml", "--workers", 1, "-q", "--set", f"gates.0.at_least={value:.3f}")
    assert done.exit_code == 3, done.output
    assert gates.load("runs/tiny")[0].at_least == pytest.approx(value, abs=1e-3)


def test_a_wrong_gate_starts_no_run():
    Path("tiny.yaml").write_text(SUITE + "gates: [pgd:robust_accuracy>=0.4]\n")
    done = call("run", "tiny.yaml")
    assert done.exit_code == 2
    assert (
        "tiny.yaml:7: gates[0].attack: expected the label of an attack that is played, got attack='pgd'" in done.output
    )
    assert not Path("runs").exists()


def test_help_names_the_codes_and_the_option():
    assert "3 a gate was asked for" in " ".join(call("--help").output.replace("│", " ").split())
    assert "--gate" in call("evaluate", "--help").output
