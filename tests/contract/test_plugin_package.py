"""A plug-in package that is really installed: found by its entry point, and held to the same laws."""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.evaluation import record_files

SOURCE = Path(__file__).parent.parent / "plugin_package"
SUITE = """
name: guessed
dataset: {name: digits, train: 300, test: 60}
model: {name: logistic}
training: {epochs: 3, lr: 5.0e-3, batch_size: 32}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
attacks: [noise, constant-guess, {constant-guess: {label: threes, guess: 3, slack: 2}}]
gates: [guess_rate<=0.9, "threes:near_rate<=0.01", "worst-case:robust_accuracy>=0.0"]
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the installed package, as `pip install --target` leaves it."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(SOURCE, folder / "source")
    target = folder / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
    ]
    subprocess.run([*command, str(source)], check=True, capture_output=True, timeout=120)
    return target


@pytest.fixture(scope="module")
def played(seen):
    """What a suite with the package's scenario leaves, and what the command said."""
    code, *told = seen["run"]
    assert code == 1
    return seen["folder"] / "run", "".join(told)


def commands(*asked):
    """Exit code, and what was said, of these commands in this process, where the package is not installed."""
    for words in asked:
        done = CliRunner().invoke(app, [str(word) for word in words])
        yield done.exit_code, done.stdout, done.stderr


def rows(folder, attack):
    with (folder / "results.csv").open() as file:
        return {row["metric"]: row for row in csv.DictReader(file) if row["attack"] == attack}


@pytest.fixture(scope="module")
def seen(installed, tmp_path_factory):
    """What one process that finds the package sees: what commands said, which laws held, and where reports lie."""
    folder = tmp_path_factory.mktemp("seen")
    (folder / "s.yaml").write_text(SUITE)
    play = ["run", str(folder / "s.yaml"), "--out", str(folder / "run"), "--workers", "1"]
    asked = (["list", "scenarios", "--json"], ["show", "shift-guess", "--json"], ["show", "shift-gess"], play)
    code = f"""
import json
import robustsuite as rs
import torch
from robustsuite.plugins import registry
from robustsuite.testing import attack_laws, defense_laws
from typer.testing import CliRunner
from robustsuite.cli.app import app
said = [CliRunner().invoke(app, words) for words in {asked!r}]
laws = [*attack_laws("constant-shift"), *defense_laws("longer-training"), *attack_laws("constant-guess")]
for law in laws:
    law()
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
report = rs.evaluate(model, (torch.rand(20, 1, 2, 2), torch.arange(20) % 2), ["constant-shift"], ("linf", 0.1))
report.save({str(folder / "evaluated")!r})
found = {{"module": registry.attacks.get("constant-shift").cls.__module__, "laws": [law.name for law in laws]}}
print(json.dumps({{**found, "said": [(done.exit_code, done.stdout, done.stderr) for done in said]}}))
"""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {**found, "run": found["said"].pop(), "folder": folder, "report": folder / "evaluated" / "report.html"}


def test_is_found_and_obeys_the_laws(seen):
    assert seen["module"] == "robustsuite_shift"
    assert len(seen["laws"]) >= 18
    assert seen["laws"][-2:] == ["measures-what-is-declared", "never-asks"]  # the latter is its scenario's own


def test_its_scenario_is_known_to_the_command(seen):
    listed, shown, near = seen["said"]
    found = {row["name"]: row for row in json.loads(listed[1])}
    assert found.keys() >= {"evasion", "inversion", "poisoning", "shift-guess", "utility"}
    assert found["shift-guess"]["access"] == "inputs"
    told = json.loads(shown[1])
    assert (told["kind"], told["rules"], told["default"]) == ("scenario", "slack", "constant-guess")
    assert told["metrics"] == "guess_rate, near_rate, guessed_labels"
    assert near[0] == 2
    assert "did you mean 'shift-guess'" in near[2]


def test_its_panel_is_in_the_report(seen):
    drawn = seen["report"].read_text().split('<section id="panel-forward-passes">', 1)[1].split("</section>", 1)[0]
    assert "<td>constant-shift</td><td>" in drawn


def test_its_scenario_stands_in_table_csv_and_gates(played):
    folder, told = played
    head = (folder / "table.md").read_text().splitlines()[0]
    wanted = ["verdict, right guesses", "constant-guess", "constant-guess, near guesses", "threes, near guesses"]
    assert all(title in head for title in wanted), head
    found = rows(folder, "threes")
    assert list(found) == ["guess_rate", "near_rate", "guessed_labels"]
    assert (found["near_rate"]["unit"], found["near_rate"]["better"]) == ("rate", "lower")
    # Who guesses 0 and who guesses 3 are never both right.
    alone = [float(rows(folder, name)["guess_rate"]["value"]) for name in ("constant-guess", "threes")]
    with (folder / "results.csv").open() as file:
        joined = [r for r in csv.DictReader(file) if r["attack"] == "worst-case" and r["metric"] == "guess_rate"]
    assert float(joined[0]["value"]) == pytest.approx(sum(alone))
    assert "passed: worst-case: guess_rate" in told
    assert "failed: threes: near_rate" in told
    assert "passed: worst-case: robust_accuracy" in told
    assert "near guesses" in (folder / "report.html").read_text()


def test_its_records_are_read_where_it_is_not_installed(played, tmp_path):
    folder, _ = played
    copied = shutil.copytree(folder, tmp_path / "run")
    (copied / "table.md").unlink()
    other = shutil.copytree(folder, tmp_path / "other")
    records = record_files.read(other / "records.jsonl")
    changed = [replace(r, rules={"slack": 1}) if r.rules == {"slack": 2} else r for r in records]
    record_files.write(other / "records.jsonl", changed)
    listed, drawn, same, ruled = commands(
        ["list", "scenarios"],
        ["report", copied, "--format", "md"],
        ["compare", folder, copied, "--json"],
        ["compare", folder, other],
    )
    assert "shift-guess" not in listed[1]
    assert drawn[0] == 1, "a gate failed"
    assert (copied / "table.md").read_text() == (folder / "table.md").read_text()
    # The same run is no worse than itself, in the words that its records carry, tested by the outcomes they name.
    told = json.loads(same[1])
    tested = {(row["attack"], row["metric"]) for row in told["rows"] if row["p"] is not None}
    assert tested >= {("threes", "guess_rate"), ("threes", "near_rate"), ("worst-case", "guess_rate")}
    assert told["outcome"] == "passed"
    assert ruled[0] == 3
    assert "other rules (slack 2, now 1)" in "".join(ruled[1:])
    assert "threes, right guesses" in "".join(ruled[1:])


def test_a_figure_that_nobody_declared_is_caught(monkeypatch):
    """The kit itself: a judge that measures something else than its class says breaks a law."""
    from robustsuite.scenarios import Poisoning
    from robustsuite.testing import LawBroken, attack_laws

    (law,) = [law for law in attack_laws("label-flip") if law.name == "measures-what-is-declared"]
    law()
    whole = dict(Poisoning.metrics)
    for changed in (
        {name: spec for name, spec in whole.items() if name != "poisoned"},
        {**whole, "poisoned": replace(whole["poisoned"], unit="rate")},
        {**whole, "clean_accuracy": replace(whole["clean_accuracy"], better="lower")},
        {**whole, "clean_accuracy": replace(whole["clean_accuracy"], outcome="hit")},
    ):
        monkeypatch.setattr(Poisoning, "metrics", changed)
        with pytest.raises(LawBroken):
            law()


def test_a_broken_attack_is_caught():
    """The kit itself: an attack that leaves the ball and one that writes to the model are both caught."""
    from dataclasses import dataclass

    import torch

    from robustsuite.plugins import registry
    from robustsuite.testing import LawBroken, attack_laws

    @dataclass(frozen=True, kw_only=True)
    class TooFar:
        """Leave the ball."""

        def __call__(self, view, streams):
            return (view.x + 2 * view.ball.radius).detach()

    @dataclass(frozen=True, kw_only=True)
    class Meddler:
        """Train the victim a little."""

        def __call__(self, view, streams):
            with torch.no_grad():
                next(view.model.parameters()).add_(0.1)
            return view.x.clone()

    registry.discover()
    known = dict(registry.attacks._entries)
    try:
        for name, cls in (("too-far", TooFar), ("meddler", Meddler)):
            registry.register.attack(name, scenario="evasion", access="white-box")(cls)
        broken = {"too-far": "in-the-ball", "meddler": "pure"}
        for name, law in broken.items():
            check = next(check for check in attack_laws(name) if check.name == law)
            with pytest.raises(LawBroken):
                check()
    finally:
        registry.attacks._entries.clear()
        registry.attacks._entries.update(known)
