"""Every command: what it prints where, and its exit code."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.plugins import registry

SUITE = """\
name: tiny
dataset: {name: digits, train: 200, test: 60}
model: {name: logistic}
training: {epochs: 2, batch_size: 50, lr: 1.0e-2, validation: 0.0}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
attacks: [noise, fgsm]
"""
BROKEN = """\
from dataclasses import dataclass
from robustsuite.plugins.registry import register

@register.attack("cli-test-broken", scenario="evasion", access="blind")
@dataclass(frozen=True, kw_only=True)
class Broken:
    '''Raise.'''
    def __call__(self, view, streams):
        raise ArithmeticError("the plug-in broke")
"""
NET = """\
from torch import nn

def build(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

def probabilities(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes), nn.Softmax(1))

def number():
    return 3
"""


@pytest.fixture(autouse=True)
def _working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry.discover()
    monkeypatch.setattr(registry.attacks, "_entries", dict(registry.attacks._entries))  # plug-ins made here end here
    Path("tiny.yaml").write_text(SUITE)
    Path("broken.py").write_text(BROKEN)
    Path("net.py").write_text(NET)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# --- run


def test_a_run_leaves_everything_and_is_resumed():
    first = call("run", "tiny.yaml", "--workers", 1)
    assert first.exit_code == 0, first.output
    assert "3 cells run, 0 reused" in first.stderr
    assert "1 training of victims" in first.stderr  # the plan comes before the work
    assert "defence" in first.stdout
    assert "runs/tiny/report.html" in first.stdout
    for name in ("suite.yaml", "records.jsonl", "results.csv", "table.md", "table.tex", "report.html"):
        assert Path("runs/tiny", name).is_file()
    before = Path("runs/tiny/results.csv").read_bytes()
    again = call("run", "tiny.yaml", "--workers", 1)
    assert "0 cells run, 3 reused" in again.stderr
    assert Path("runs/tiny/results.csv").read_bytes() == before


def test_quiet_says_only_results():
    done = call("run", "tiny.yaml", "--quiet", "--workers", 1, "--set", "attacks=[noise]")
    assert done.stderr == ""
    assert "defence" in done.stdout


def test_the_suite_of_a_run_needs_a_folder_or_fresh():
    call("run", "tiny.yaml", "--workers", 1, "--set", "attacks=[]")
    for source in ("runs/tiny/suite.yaml", "runs/tiny"):
        refused = call("run", source)
        assert refused.exit_code == 2
        assert "--out runs/tiny to go on there, or --fresh" in refused.stderr
    elsewhere = call("run", "runs/tiny/suite.yaml", "--out", "other", "--workers", 1)
    assert elsewhere.exit_code == 0
    assert Path("other/suite.yaml").read_bytes() == Path("runs/tiny/suite.yaml").read_bytes()
    fresh = call("run", "runs/tiny/suite.yaml", "--fresh", "--workers", 1)
    assert "1 cells run, 0 reused" in fresh.stderr


def test_a_cell_that_raises_is_a_record_and_the_exit_code_says_so():
    done = call(
        "run", "tiny.yaml", "--plugin", "broken.py", "--set", "attacks=[cli-test-broken, noise]", "--workers", 1
    )
    assert done.exit_code == 1
    assert "ArithmeticError: the plug-in broke" in done.stderr
    records = [json.loads(line) for line in Path("runs/tiny/records.jsonl").read_text().splitlines()]
    status = {record["attack"]: record["status"] for record in records}
    assert status == {"none": "ok", "cli-test-broken": "error", "noise": "ok"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "suite='nope'"),
        (["quickstrat"], "did you mean quickstart"),
        (["tiny.yaml", "--set", "training.epoch=3"], "--set training.epoch=3: training.epoch: .*did you mean 'epochs'"),
        (["tiny.yaml", "--seed", "-3"], "--set seed=-3: seed: "),
        (["tiny.yaml", "--repeats", "0"], "got repeats=0"),
        (["tiny.yaml", "--threads", "0"], "got threads=0"),
        (["tiny.yaml", "--device", "tpu"], "got device='tpu'"),
        (["tiny.yaml", "--engine", "dask"], "got engine='dask'"),
        (["tiny.yaml", "--workers", "0"], "got workers=0"),
        (["tiny.yaml", "--plugin", "nope.py"], "nope.py"),
        (["tiny.yaml", "--gate", "x"], "No such option"),
    ],
)
def test_a_wrong_request_starts_nothing(arguments, words):
    refused = call("run", *arguments)
    assert refused.exit_code == 2
    assert re.search(words, refused.stderr), refused.stderr
    assert "Traceback" not in refused.output
    assert refused.stdout == ""
    assert not Path("runs").exists()


def test_data_that_are_not_there_start_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("ROBUSTSUITE_DATA", str(tmp_path))
    refused = call("run", "tiny.yaml", "--set", "dataset={name: mnist}")
    assert refused.exit_code == 2
    assert "mnist" in refused.stderr
    assert not Path("runs").exists()


# --- evaluate


def test_a_model_of_the_users_own():
    done = call("evaluate", "net.py:build", "--data", "digits", "--attack", "fgsm", "--attack", "pgd(steps=2)",
                "--radius", "8/255", "--samples", 50, "--out", "mine")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "mine/report.html" in done.stdout
    frame = pd.read_csv("mine/results.csv")
    robust = frame[frame.metric == "robust_accuracy"]
    assert set(robust.attack) == {"fgsm", "pgd", "worst-case"}
    assert set(robust.radius) == {8 / 255}
    assert set(robust.n) == {50}


def test_one_seed_makes_one_model():
    arguments = ("evaluate", "net.py:build", "--data", "digits", "--attack", "fgsm", "--radius", 0.1, "--samples", 40)
    assert call(*arguments).stdout == call(*arguments).stdout


def test_weights_are_loaded_and_a_pickle_with_code_is_not(tmp_path):
    import pickle

    import torch
    from safetensors.torch import save_file

    weights = {"1.weight": torch.zeros(10, 64), "1.bias": 5 * torch.eye(10)[3]}
    save_file(weights, "w.safetensors")
    arguments = ("--data", "digits", "--attack", "noise", "--radius", "0", "--samples", 100)
    done = call("evaluate", "net.py:build", "--checkpoint", "w.safetensors", *arguments, "--out", "z")
    assert done.exit_code == 0, done.output
    frame = pd.read_csv("z/results.csv")
    clean = frame[(frame.metric == "clean_accuracy") & (frame.attack == "none")].value.item()
    assert 0.05 <= clean <= 0.15  # it always says 3

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    Path("evil.pt").write_bytes(pickle.dumps({"1.weight": Evil()}))
    refused = call("evaluate", "net.py:build", "--checkpoint", "evil.pt", *arguments)
    assert refused.exit_code == 2
    assert "evil.pt" in refused.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["net.py:biuld"], "did you mean build"),
        (["nope.py:build"], "there is no"),
        (["net.py"], "package.module:function"),
        (["net.py:number"], "returned int"),
        (["net.py:build", "--data", "digit"], "did you mean 'digits'"),
        (["net.py:build", "--attack", "pgd(__import__('os').abort())"], "name every option"),
        (["net.py:build", "--attack", "pgd(steps=__import__('os').abort())"], "values are numbers"),
        (["net.py:build", "--attack", "pdg"], "did you mean pgd"),
        (["net.py:build", "--attack", "pgd(step=3)"], "did you mean 'steps'"),
        (["net.py:build", "--radius", "8/0"], "got radius='8/0'"),
        (["net.py:build", "--radius", "-1"], "got radius=-1"),
        (["net.py:build", "--norm", "l3"], "got norm='l3'"),
        (["net.py:build", "--attack", "badnets"], "recipe"),
        (["net.py:build", "--attack", "model-inversion"], "--train-data"),
        (["net.py:build", "--checkpoint", "nope.safetensors"], "nope.safetensors"),
    ],
)
def test_a_wrong_evaluation_is_refused(arguments, words):
    given = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    options = {"--data": "digits", "--radius": "0.1", "--attack": "fgsm", "--samples": "20", **given}
    refused = call("evaluate", arguments[0], *(part for pair in options.items() for part in pair))
    assert refused.exit_code == 2, refused.output
    assert re.search(words, refused.stderr), refused.stderr
    assert "Traceback" not in refused.output


def test_an_evasion_attack_asks_for_a_radius():
    refused = call("evaluate", "net.py:build", "--data", "digits")
    assert refused.exit_code == 2
    assert "expected --radius" in refused.stderr


def test_an_attack_that_raises_sets_the_exit_code():
    options = ("--samples", 20, "--radius", "0.1", "--plugin", "broken.py", "--attack", "cli-test-broken")
    done = call("evaluate", "net.py:build", "--data", "digits", *options)
    assert done.exit_code == 1
    assert "the plug-in broke" in done.stderr


def test_a_file_without_a_test_part_is_attacked_whole():
    import numpy as np

    rng = np.random.default_rng(0)
    np.savez("own.npz", x=rng.random((70, 1, 8, 8), dtype=np.float32), y=np.arange(70) % 10)
    done = call("evaluate", "net.py:build", "--data", "own.npz", "--attack", "noise", "--radius", "0.1", "--out", "o")
    assert done.exit_code == 0, done.output
    frame = pd.read_csv("o/results.csv")
    assert frame[(frame.metric == "clean_accuracy") & (frame.attack == "none")].n.item() == 70


# --- train


def test_a_trained_model_is_saved_and_found_by_a_run():
    from safetensors.torch import load_file

    done = call("train", "tiny.yaml", "--quiet")
    assert done.exit_code == 0, done.output
    assert "clean_accuracy: 0." in done.stdout
    assert done.stdout.splitlines()[-1] == "runs/tiny/none.safetensors"
    assert any(tensor.shape == (10, 64) for tensor in load_file("runs/tiny/none.safetensors").values())
    known = json.loads(Path("runs/tiny/none.json").read_text())
    assert len(known["history"]) == 2
    assert known["recipe"]["training"]["epochs"] == 2
    stored = sorted(Path("runs/tiny/models").glob("*.safetensors"))
    call("run", "tiny.yaml", "--workers", 1)
    assert sorted(Path("runs/tiny/models").glob("*.safetensors")) == stored


def test_train_logs_what_it_finds_done_and_looks_for_settings():
    rows = []
    for _ in range(2):
        assert call("train", "tiny.yaml", "--quiet", "--log", "csv:log").exit_code == 0
        rows.append(Path(f"log/none/version_{len(rows)}/metrics.csv").read_text())
    assert rows[0] == rows[1]
    assert len(rows[0].splitlines()) == 3
    before = sorted(Path().rglob("*"))
    found = call("train", "tiny.yaml", "--find", "lr")
    assert found.exit_code == 0, found.output
    assert 1e-5 < float(found.stdout.splitlines()[0].removeprefix("lr: ")) < 1
    assert sorted(Path().rglob("*")) == before
    wrong = call("train", "tiny.yaml", "--find", "rate")
    assert (wrong.exit_code, "got find='rate'" in wrong.stderr) == (2, True)


def test_an_unknown_defence_is_refused():
    refused = call("train", "quickstart", "--defense", "dpsgd")
    assert refused.exit_code == 2
    assert "did you mean 'dp-sgd'" in refused.stderr


# --- report and doctor


def test_report_draws_again():
    call("run", "tiny.yaml", "--workers", 1, "--quiet")
    table = Path("runs/tiny/table.md").read_bytes()
    for name in ("table.md", "results.csv", "report.html", "table.tex"):
        Path("runs/tiny", name).unlink()
    formats = ("--format", "md", "--format", "csv", "--format", "html", "--format", "latex")
    done = call("report", "runs/tiny", *formats)
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [f"runs/tiny/{n}" for n in ("table.md", "results.csv", "report.html", "table.tex")]
    assert Path("runs/tiny/table.md").read_bytes() == table
    assert "defence" in call("report", "runs/tiny").stdout
    records = json.loads(call("report", "runs/tiny", "--format", "json").stdout)
    assert [record["attack"] for record in records] == ["none", "noise", "fgsm"]


@pytest.mark.parametrize(("arguments", "words"), [(["nowhere"], "nowhere"), (["nowhere", "--format", "docx"], "docx")])
def test_report_refuses(arguments, words):
    refused = call("report", *arguments)
    assert refused.exit_code == 2
    assert words in refused.stderr


def test_doctor_finds_this_installation_well():
    done = call("doctor", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert done.exit_code == 0, done.output
    assert findings["torch with torchvision"]["state"] == "ok"
    assert findings["digits"]["state"] == "ok"
    assert findings["opacus"]["state"] == "ok"


def test_doctor_says_what_would_fail_and_how_to_mend_it(monkeypatch):
    import importlib.metadata

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0" if name == "torch" else real(name))
    done = call("doctor", "--json")
    torch = next(f for f in json.loads(done.stdout) if f["subject"] == "torch")
    assert done.exit_code == 1
    assert torch["state"] == "fails"
    assert "pip install 'torch" in torch["remedy"]


def test_help_and_version():
    for arguments in (["--help"], ["run", "--help"], ["evaluate", "-h"]):
        shown = call(*arguments)
        assert shown.exit_code == 0
        assert "Usage" in shown.stdout
    assert call("--version").stdout.startswith("robustsuite 0.")
    assert call("rnu").exit_code == 2
