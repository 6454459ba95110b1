"""What scripts read: JSON on standard output, a job's summary, and MLflow."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.core import checks
from robustsuite.core.errors import RequestError

SUITE = """\
name: tiny
dataset: {name: digits, train: 200, test: 60}
model: {name: logistic}
training: {epochs: 2, batch_size: 50, lr: 1.0e-2, validation: 0.0}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
attacks: [noise, fgsm]
gates:
- {attack: fgsm, metric: robust_accuracy, at_least: 0.99}
- {metric: clean_accuracy, at_least: 0.01}
"""
NET = """\
from torch import nn

def build(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
"""
EVALUATE = ("evaluate", "net.py:build", "--data", "digits", "--attack", "fgsm", "--radius", "0.1", "--samples", "40")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the tiny suite has run."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        Path("tiny.yaml").write_text(SUITE)
        done = call("run", "tiny.yaml", "--workers", 1, "--no-cache", "--json")
    return place, done


@pytest.fixture
def _inside(finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_run_ends_with_one_json_object_and_tables_elsewhere(finished):
    _, done = finished
    told = json.loads(done.stdout)
    assert done.exit_code == told["exit_code"] == 1
    assert told["meaning"] == "a cell raised, or a gate failed"
    assert told["suite"] == "tiny"
    assert told["cells"] == {"total": 3, "ok": 3, "ran": 3, "reused": 0, "recalled": 0}
    assert [(gate["gate"], gate["outcome"]) for gate in told["gates"]] == [
        ("fgsm:robust_accuracy>=0.99", "failed"),
        ("clean_accuracy>=0.01", "passed"),
    ]
    gate = told["gates"][0]
    assert (gate["defense"], gate["attack"], gate["at_least"], gate["n"]) == ("none", "fgsm", 0.99, 60)
    assert gate["low"] <= gate["value"] <= gate["high"] < 0.99
    assert Path(finished[0], told["files"]["sarif"]).name == "results.sarif"
    assert told["errors"] == []
    assert "defence" in done.stderr
    assert "failed: fgsm" in done.stderr


@pytest.mark.usefixtures("_inside")
def test_quiet_json_leaves_nothing_on_standard_error():
    done = call("run", "tiny.yaml", "--workers", 1, "--json", "--quiet")
    assert json.loads(done.stdout)["cells"]["reused"] == 3
    assert done.stderr == ""


@pytest.mark.usefixtures("_inside")
def test_report_says_the_same_again(finished):
    (again,) = (json.loads(call("report", "runs/tiny", "--json").stdout),)
    first = json.loads(finished[1].stdout)
    for key in ("suite", "exit_code", "meaning", "gates", "errors"):
        assert again[key] == first[key]
    assert call("report", "runs/tiny", "--json").exit_code == first["exit_code"] == 1


@pytest.mark.usefixtures("_inside")
def test_report_writes_junit_and_sarif_and_prints_the_summary():
    for name in ("junit.xml", "results.sarif"):
        Path("runs/tiny", name).unlink()
    done = call("report", "runs/tiny", "--format", "junit", "--format", "sarif")
    assert done.stdout.split() == ["runs/tiny/junit.xml", "runs/tiny/results.sarif"]
    shown = call("report", "runs/tiny", "--format", "github").stdout
    assert shown.startswith("## robustsuite: tiny\n\n**Gates: 1 failed, 1 passed.**")
    assert shown.rstrip().endswith("Report and records: `runs/tiny`")


@pytest.mark.usefixtures("_inside")
def test_each_table_is_headed_by_its_run():
    shown = call("report", "runs/tiny", "./runs/tiny").stdout.splitlines()
    heads = [line for line in shown if line.startswith("runs/tiny: ")]
    assert heads == ["runs/tiny: suite tiny, dataset digits, model logistic, linf radius 0.1"] * 2


def test_a_job_of_github_shows_the_run(finished, monkeypatch, tmp_path):
    summary = tmp_path / "summary.md"
    monkeypatch.chdir(finished[0])
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    call("run", "tiny.yaml", "--workers", 1, "--quiet")
    Path("net.py").write_text(NET)
    call(*EVALUATE, "--quiet")
    titles = [line for line in summary.read_text().splitlines() if line.startswith("## ")]
    assert titles == ["## robustsuite: tiny", "## robustsuite: evaluate"]


@pytest.mark.usefixtures("_inside")
def test_evaluate_ends_with_one_json_object():
    Path("net.py").write_text(NET)
    done = call(*EVALUATE, "--gate", "fgsm:robust_accuracy>=0.9", "--out", "mine", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == told["exit_code"] == 1
    assert (told["folder"], told["files"]["html"]) == ("mine", "mine/report.html")
    assert told["gates"][0]["outcome"] == "failed"
    bare = json.loads(call(*EVALUATE, "--json").stdout)
    assert (bare["exit_code"], bare["folder"], bare["files"], bare["gates"]) == (0, None, {}, [])


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("kmnist", "dataset", "cursive Japanese"),
        ("cnn", "model", "convolutions"),
        ("resnet50", "model", "torchvision"),
        ("quickstart", "suite", "Handwritten digits"),
        ("inversion", "scenario", ""),
    ],
)
def test_show_knows_more_than_plugins(name, kind, words):
    shown = json.loads(call("show", name, "--json").stdout)
    assert shown["kind"] == kind
    assert words in shown["description"]
    assert call("show", name).exit_code == 0


def test_show_prints_a_built_in_suite_whole():
    from robustsuite.suite.builtin import builtin_text

    assert builtin_text("quickstart").rstrip() in call("show", "quickstart").stdout


def test_show_tells_art_attacks_in_whole_sentences():
    from robustsuite.attacks.evasion import art_catalogue
    from robustsuite.plugins import registry

    for name in art_catalogue.names():
        assert registry.attacks.get(f"art:{name}").summary.endswith(".")
    shown = json.loads(call("show", "art:HopSkipJump", "--json").stdout)
    assert shown["description"].endswith("is an advanced version of the boundary attack.")
    assert shown["references"] == "arXiv:1904.02144"


def test_attacks_of_art_are_listed_with_what_they_need():
    from robustsuite.attacks.evasion import art_catalogue

    rows = {row["name"]: row for row in json.loads(call("list", "attacks", "--json").stdout)}
    for name, access in art_catalogue.names().items():
        assert rows[f"art:{name}"]["access"] == access
        assert rows[f"art:{name}"]["refused"] == ""
    assert rows["art:PixelAttack"]["needs"] == ["package cma unless es=0"]
    assert rows["art:HopSkipJump"]["needs"] == []
    assert rows["art:AdversarialPatch"]["refused"] == "a patch is bounded by no norm"
    assert {"train", "recipe"} <= set(rows["badnets"]["needs"])
    assert rows["fgsm"]["norms"] == ["linf", "l2", "l1"]
    assert "art:NAME" not in rows


def test_doctor_counts_attacks_and_looks_for_every_data_set():
    from robustsuite.data.catalogue import NAMES

    findings = {finding["subject"]: finding for finding in json.loads(call("doctor", "--json").stdout)}
    listed = [row for row in json.loads(call("list", "attacks", "--json").stdout) if not row["name"].startswith("art:")]
    assert findings["plug-ins"]["detail"].startswith(f"{len(listed)} attacks,")
    assert set(NAMES) - {"image-folder", "npz", "factory"} <= set(findings)


def test_choices_are_listed_once():
    with pytest.raises(RequestError) as caught:
        checks.one_of("goal", "xyzzy", ("untargeted", "targeted"))
    assert str(caught.value).count("untargeted, targeted") == 1


@pytest.mark.usefixtures("_inside")
def test_export_to_mlflow_from_the_command_line(monkeypatch, tmp_path):
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    asked = ("export", "mlflow", "runs/tiny", "--tracking-uri", (tmp_path / "store").as_uri(), "--json")
    one, two = (json.loads(call(*asked).stdout) for _ in range(2))
    assert one == two
    assert list(one["children"]) == ["none"]
    assert call("export", "mlflow", "nowhere").exit_code == 2
