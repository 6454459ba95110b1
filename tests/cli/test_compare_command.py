"""`robustsuite compare` on models that were really trained: unchanged, improved, worsened."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.cli.app import app

SUITE = """\
name: release
dataset: {name: digits, train: 800, test: 500}
model: {name: logistic}
training: {epochs: 8, batch_size: 50, lr: 1.0e-2, validation: 0.0}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
defenses: [DEFENSE]
attacks: [noise, fgsm, {pgd: {steps: 5, follow_up: false}}]
"""
RELEASES = {
    "released": ("{none: {label: ours}}", 8),
    "improved": ("{adversarial-training: {label: ours}}", 8),
    "worsened": ("{none: {label: ours}}", 1),
}


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("releases")
    for name, (defense, epochs) in RELEASES.items():
        suite = home / f"{name}.yaml"
        suite.write_text(SUITE.replace("DEFENSE", defense).replace("epochs: 8", f"epochs: {epochs}"))
        done = call("run", suite, "--out", home / name, "--workers", 1, "--quiet")
        assert done.exit_code == 0, done.output
    return home


def told(runs, old, new, *options):
    done = call("compare", runs / old, runs / new, "--json", *options)
    return done.exit_code, json.loads(done.stdout)


def verdicts(found):
    return {(r["attack"], r["metric"]): r["verdict"] for r in found["rows"] if r["verdict"] != "not tested"}


def test_an_unchanged_model(runs):
    code, found = told(runs, "released", "released")
    assert (code, found["outcome"]) == (0, "passed")
    assert {row["worse"] for row in found["rows"] if row["p"] is not None} == {0}
    assert set(verdicts(found).values()) == {"no evidence"}


def test_an_improved_model(runs):
    code, found = told(runs, "released", "improved", "--metric", "robust_accuracy")
    assert code == 0
    assert verdicts(found)["pgd", "robust_accuracy"] == "improvement"
    assert verdicts(found)["worst-case", "robust_accuracy"] == "improvement"


def test_a_worsened_model(runs):
    code, found = told(runs, "released", "worsened")
    assert (code, found["outcome"]) == (1, "failed")
    assert verdicts(found)["none", "clean_accuracy"] == "regression"
    row = next(r for r in found["rows"] if r["metric"] == "clean_accuracy" and r["attack"] == "none")
    assert row["n"] == 500
    assert row["difference"] == pytest.approx((row["improved"] - row["worse"]) / 500)
    assert row["new"] - row["old"] == pytest.approx(row["difference"])


def test_another_attack_seed_is_no_regression(tmp_path):
    """One model, attacked twice with other random starts."""
    x = torch.rand(300, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 24), torch.nn.ReLU(), torch.nn.Linear(24, 3))
    y = model(x).argmax(1)
    for seed in (0, 1):
        pgd = rs.attack("pgd", steps=3, random_start=True)
        found = rs.evaluate(model, (x, y), [pgd], rs.Ball("linf", 0.02), seed=seed, rules={"follow_up": False})
        found.save(tmp_path / str(seed))
    found = rs.compare(tmp_path / "0", tmp_path / "1")
    assert found.outcome == "passed"
    row = next(r for r in found.rows if r.metric == "robust_accuracy")
    assert 0 < row.old < 1
    assert row.worse + row.improved < 15


def test_the_table_on_the_terminal(runs):
    done = call("compare", runs / "released", runs / "worsened")
    assert done.exit_code == 1
    assert re.search(r"ours +– +clean accuracy .* -\d+ \+\d+ +<0\.001 +regression", done.stdout)
    assert re.search(r"\d regressions? and \d improvements? among 5 tested figures", done.stdout)
    assert done.stderr == ""


def test_files(runs, tmp_path):
    done = call("compare", runs / "released", runs / "worsened", "--out", tmp_path / "out")
    assert done.exit_code == 1
    for name in ("comparison.json", "comparison.csv", "comparison.md"):
        assert str(tmp_path / "out" / name) in done.stdout
    frame = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["outcome"] == "failed"
    assert (frame.verdict == "regression").sum() >= 1
    assert (tmp_path / "out" / "comparison.md").read_text().startswith("**failed**")
    piped = call("compare", runs / "released", runs / "worsened", "--format", "csv")
    assert piped.stdout == (tmp_path / "out" / "comparison.csv").read_text()


def test_runs_without_anything_in_common(runs, tmp_path):
    suite = tmp_path / "other.yaml"
    text = SUITE.replace("DEFENSE", "{none: {label: theirs}}").replace(
        "attacks: [noise, fgsm, {pgd: {steps: 5, follow_up: false}}]", "attacks: [noise]"
    )
    suite.write_text(text.replace("epochs: 8", "epochs: 1"))
    assert call("run", suite, "--out", tmp_path / "other", "--workers", 1, "--quiet").exit_code == 0
    done = call("compare", runs / "released", tmp_path / "other")
    assert done.exit_code == 3
    assert "only in old" in done.stdout
    assert "only in new" in done.stdout
    assert "Nothing could be compared" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--metric", "clean_acuracy"], "did you mean 'clean_accuracy'"),
        (["--alpha", "0"], "alpha=0.0"),
        (["--min-effect", "2"], "min_effect=2.0"),
        (["--format", "jsn"], "did you mean 'json'"),
    ],
)
def test_wrong_requests(runs, options, words):
    refused = call("compare", runs / "released", runs / "released", *options)
    assert refused.exit_code == 2
    assert words in refused.stderr


def test_a_folder_that_is_no_run(runs):
    refused = call("compare", runs / "released", Path("nowhere"))
    assert refused.exit_code == 2
    assert "nowhere" in refused.stderr


def test_help_says_what_the_exit_codes_mean():
    shown = call("compare", "--help")
    assert shown.exit_code == 0
    assert "3 no verdict: no figure could be tested" in " ".join(shown.stdout.split())
