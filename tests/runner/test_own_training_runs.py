"""A user's own training function in suites and in Python: poisoned, killed, resumed, edited, not cached."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.errors import RequestError
from robustsuite.evaluation import record_files
from robustsuite.plugins import registry
from robustsuite.runner.plan import plan
from robustsuite.runner.run import preview, run
from robustsuite.storage.store import Store
from robustsuite.suite.load import load_suite
from robustsuite.training import Job, Recipe, Trainer

TRAIN = """
import os
import time

import torch
from BESIDE import STEPS
from torch import nn


def told(what, samples):
    with open("calls.txt", "a") as file:
        file.write(f"{what} {len(samples)} {int(samples.y.sum())}\\n")
    time.sleep(float(os.environ.get("SLOW", "0")))


def learnt(net, samples, steps):
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(samples.x), samples.y).backward()
        optimizer.step()
    return net


def loop(samples, seed, device, steps=STEPS):
    told("loop", samples)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, samples.classes))
    return learnt(net, samples, steps)


def tuned(samples, seed, device, build, steps=STEPS):
    told("tuned", samples)
    return learnt(build(), samples, steps)


class Scored(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        scores = self.model.decision_function(x.detach().flatten(1).cpu().numpy())
        return torch.from_numpy(scores).float().to(x.device)


def pipeline(samples, seed, device):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    told("pipeline", samples)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, random_state=seed))
    return Scored(model.fit(samples.x.flatten(1).numpy(), samples.y.numpy()))


def careless(samples, seed, device):
    net = loop(samples, seed, device)
    samples.x.zero_()
    samples.y.zero_()
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.manual_seed(1)
    return net.train()


def nonsense(samples, seed, device):
    return "a network"


def fails(samples, seed, device):
    with open("calls.txt") as file:
        before = file.read()
    if before:
        raise RuntimeError("the second training fails")
    return loop(samples, seed, device)
"""
SUITE = """
name: own
dataset: {name: digits, train: 300, test: 100, calibration: 100}
training: {factory: "train.py:FUNCTION"}
defenses: [none, {input-validation: {detectors: [range, feature-distance]}}]
attacks: [label-flip: {fraction: 0.3}, badnets: {fraction: 0.1}]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The user's folder, with a function, a module beside it and a suite; and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    beside = f"steps_{uuid.uuid4().hex}"  # a process imports a name once, and each test means its own file
    (tmp_path / "train.py").write_text(TRAIN.replace("BESIDE", beside))
    (tmp_path / f"{beside}.py").write_text("STEPS = 40\n")
    return tmp_path


def suite(function="loop", *overrides, plugins=()):
    with open("own.yaml", "w") as file:
        file.write(SUITE.replace("FUNCTION", function))
    return load_suite("own.yaml", overrides, plugins)


def calls():
    """What was trained since this was asked last: function, number of samples, sum of labels."""
    with open("calls.txt", "a+") as file:
        file.seek(0)
        found = file.read().splitlines()
        file.truncate(0)
    return found


def figures(records):
    """Everything but times, by defence and attack."""
    found = {}
    for record in records:
        kept = {name: m.value for name, m in record.metrics.items() if m.unit not in ("seconds", "milliseconds")}
        found[record.defense, record.attack] = (record.key, record.status, record.headline, kept)
    return found


def values(outcome, name, defense="none"):
    return {r.attack: r.metrics[name].value for r in outcome.records if r.defense == defense and name in r.metrics}


@pytest.mark.parametrize("function", ["loop", "pipeline"])
def test_a_users_function_goes_through_label_flips_and_a_backdoor(folder, function):
    outcome = run(suite(function), folder / "run")
    assert [r.status for r in outcome.records] == ["ok"] * 6
    clean, *_ = outcome.records
    assert clean.metrics["clean_accuracy"].value > 0.85
    assert clean.training["trained_by"] == {"function": f"train.py:{function}", "seed": 0, "samples": 300}
    assert clean.metrics["train_seconds"].value > 0
    assert clean.model == f"train.py:{function}"
    assert values(outcome, "accuracy_drop")["label-flip"] > 0.05
    assert values(outcome, "backdoor_success_rate")["badnets"] > 0.8
    assert values(outcome, "backdoor_success_rate_clean_twin")["badnets"] < 0.2
    # Victim, flipped and stamped, each once: defences that only serve share them.
    assert len(calls()) == 3
    told = [line for line in outcome.mishaps if "is not kept" in line]
    assert len(told) == 1
    assert run(suite(function), folder / "run").ran == 0
    assert calls() == []


def test_gradients_of_a_pipeline_are_said_to_be_missing(folder):
    more = ("attacks=[fgsm]", "defenses=[none]", "threat={norm: linf, radius: 0.1, curve_samples: 0}")
    outcome = run(suite("pipeline", *more), folder / "run")
    (attacked,) = (record for record in outcome.records if record.attack == "fgsm")
    assert attacked.status == "ok"
    assert "zero-gradients" in attacked.flags


def test_what_it_hides_is_refused_by_name_before_anything_is_trained(folder):
    threat = "threat={norm: linf, radius: 0.1}"
    defenses = "defenses=[adversarial-training, {dp-sgd: {epsilon: 3.0}}, {none: {label: wide, model: {name: cnn}}}]"
    with pytest.raises(RequestError) as error:
        suite("loop", threat, defenses)
    for told in (
        "own.yaml has 3 problems",
        "got adversarial-training: expected a training whose loss can be replaced",
        "got dp-sgd: expected a training whose optimizer can be replaced",
        "defenses[2].none.model: expected no model beside train.py:loop, which hides its network",
    ):
        assert told in str(error.value)
    assert calls() == []


DROPS = """
from dataclasses import dataclass

from robustsuite import Recipe, Training, register


@register.defense("drops-the-function")
@dataclass(frozen=True, kw_only=True)
class Drops:
    \"\"\"Train by a recipe of its own.\"\"\"

    def __call__(self, recipe):
        return Recipe(build=recipe.build, training=Training(epochs=1))
"""


@pytest.fixture
def registered():
    """The defences as before, whatever a test registers."""
    registry.discover()
    known = dict(registry.defenses._entries)
    yield
    registry.defenses._entries.clear()
    registry.defenses._entries.update(known)


@pytest.mark.usefixtures("registered")
def test_a_defence_that_trains_without_the_function_is_refused(folder):
    (folder / "drops.py").write_text(DROPS)
    with pytest.raises(RequestError, match="got drops-the-function: its recipe trains without that function"):
        suite("tuned", "model=logistic", "defenses=[drops-the-function]", plugins=["drops.py"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["training.epochs=3"], "training.epochs: expected a key of training by a factory, whose settings are its"),
        (["training.factory=train.py:lop"], "training.factory: expected a function in train.py, got"),
        (["training.factory=3"], "training.factory: expected a valid string, got factory=3"),
        (["training.options={epochs: 3}"], "training.options.epochs: expected a parameter of train.py:loop, got"),
        (["training.cache=maybe"], "training.cache: expected"),
        (["training.factory=train.py:tuned"], "a model for train.py:tuned, which asks for build"),
        (["model=mlp"], "model: expected no model beside train.py:loop, which hides its network"),
        (["training={epochs: 3}"], "expected model, got nothing; add a line `model: …`"),
        (["defenses=[{none: {training: {lr: 0.1}}}]"], "expected a key of training by a factory"),
    ],
)
def test_a_block_that_cannot_be_is_an_error_with_its_place(changes, told):
    with pytest.raises(RequestError) as error:
        suite("loop", *changes)
    assert told in str(error.value)
    assert "own.yaml has 1 problem; nothing was started" in str(error.value)
    assert calls() == []


def test_a_suite_is_written_as_it_was_read_and_a_defence_may_train_otherwise(folder):
    changes = [
        "defenses=[none, {none: {label: short, training: {options: {steps: 2}}}}, {none: {label: sk, training: "
        "{factory: 'train.py:pipeline'}}}]",
        "training.options={steps: 30}",
    ]
    read = suite("loop", *changes)
    again = folder / "again.yaml"
    again.write_text(read.to_yaml())
    assert load_suite(again) == read
    assert "model" not in read.values()
    options = [read.training_for(use).options for use in read.defenses]
    assert options[:2] == [{"steps": 30}, {"steps": 2}]
    mine = "defenses=[none, {none: {label: own, training: {factory: 'train.py:loop'}}}]"
    ours = suite("loop", "training={epochs: 3}", "model=logistic", mine)
    assert ours.training_for(ours.defenses[1]).name == "train.py:loop"
    cells = {cell.defense.label: cell for cell in plan(ours, "cpu").cells}
    assert cells["none"].training != cells["own"].training


def test_a_network_that_the_suite_names_is_kept_and_shared(folder):
    named = suite("tuned", "model={name: mlp, hidden: [32]}")
    outcome = run(named, folder / "run")
    assert [r.status for r in outcome.records] == ["ok"] * 6
    assert len(list((folder / "run" / "models").glob("*.safetensors"))) == len(calls()) == 3
    assert not [line for line in outcome.mishaps if "is not kept" in line]
    # Another attack needs the victim, which the cache has.
    run(suite("tuned", "model={name: mlp, hidden: [32]}", "attacks=[label-flip: {fraction: 0.2}]"), folder / "more")
    assert len(calls()) == 1


def test_a_run_that_lacks_a_cell_trains_only_what_that_cell_needs(folder):
    straight = run(suite(), folder / "run", cached=False)
    calls()
    shutil.rmtree(folder / "run" / ".cache")
    path = folder / "run" / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"badnets"' not in line or '"defense":"none"' not in line))
    again = run(suite(), folder / "run", cached=False)
    assert again.ran == 1
    assert len(calls()) == 2  # the victim and its stamped twin, but not the one on flipped labels
    assert figures(again.records) == figures(straight.records)


@pytest.mark.slow  # a default run is killed in tests/faults/test_killed.py, and one that lacks a cell goes on above
@pytest.mark.parametrize(("function", "workers"), [("loop", "2"), ("pipeline", "1")])
def test_a_run_killed_in_the_middle_ends_with_the_same_table(folder, function, workers):
    straight = run(suite(function), folder / "straight", cached=False)
    path = folder / "run" / "records.jsonl"
    command = [sys.executable, "-m", "robustsuite", "run", "own.yaml", "--out", "run", "--no-cache", "--quiet"]
    process = subprocess.Popen(
        [*command, "--workers", workers],
        env={**os.environ, "SLOW": "0.5", "NO_COLOR": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not (path.exists() and path.read_bytes().count(b"\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = len(record_files.read(path))
    assert 2 <= before < 6
    outcome = run(suite(function), folder / "run", cached=False)
    assert (outcome.reused, outcome.ran) == (before, 6 - before)
    assert figures(outcome.records) == figures(straight.records)


def test_editing_the_function_or_what_it_imports_makes_new_keys(folder):
    def keys():
        return {cell.key for cell in plan(suite(), "cpu").cells}

    first = keys()
    (folder / "notes.py").write_text("# nothing that anybody imports\n")
    assert keys() == first
    (beside,) = folder.glob("steps_*.py")
    beside.write_text("STEPS = 41\n")
    second = keys()
    assert not first & second
    function = folder / "train.py"
    function.write_text(function.read_text().replace("1e-2", "2e-2"))
    assert not keys() & (first | second)


def test_what_runs_share_is_recalled_but_for_what_reads_elsewhere(folder):
    kept, unkept = suite(), suite("loop", "training.cache=false")
    run(kept, folder / "one")
    assert len(calls()) == 3
    other = run(kept, folder / "two")
    assert (other.recalled, other.ran, calls()) == (6, 0, [])
    first = run(unkept, folder / "three")
    assert (first.recalled, first.ran, len(calls())) == (0, 6, 3)
    assert "cache: false" in plan(unkept, "cpu").describe()
    again = run(unkept, folder / "three")  # what this folder has finished stays
    assert (again.reused, again.ran, calls()) == (6, 0, [])
    assert preview(unkept, folder / "four").recalled == 0
    elsewhere = run(unkept, folder / "four")
    assert (elsewhere.recalled, elsewhere.ran, len(calls())) == (0, 6, 3)
    assert {r.attack: r.headline for r in elsewhere.records} == {r.attack: r.headline for r in first.records}


def test_a_function_that_raises_makes_error_records_and_the_rest_goes_on(folder):
    calls()
    outcome = run(suite("fails", "defenses=[none]"), folder / "run")
    assert {r.attack: r.status for r in outcome.records} == {"none": "ok", "label-flip": "error", "badnets": "error"}
    assert all("the second training fails" in r.message for r in outcome.records[1:])
    assert all(not r.metrics for r in outcome.records[1:])


def test_a_careless_function_gives_the_figures_of_a_careful_one(folder):
    more = "attacks=[label-flip: {fraction: 0.3}, badnets: {fraction: 0.1}, fgsm]"
    threat = "threat={norm: linf, radius: 0.1, curve_samples: 0}"
    careful, careless = (run(suite(name, more, threat), folder / name) for name in ("loop", "careless"))
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    for one, other in zip(careful.records, careless.records, strict=True):
        assert (one.status, one.flags, one.cost) == (other.status, other.flags, other.cost)
        taken = [n for n, m in one.metrics.items() if m.unit not in ("seconds", "milliseconds")]
        assert {n: one.metrics[n] for n in taken} == {n: other.metrics[n] for n in taken}


def test_what_is_no_network_gives_errors_and_no_figures(folder):
    outcome = run(suite("nonsense"), folder / "run")
    assert [r.status for r in outcome.records] == ["error"] * 6
    assert all("it returned str: return the trained network" in r.message for r in outcome.records)
    assert not any(r.metrics for r in outcome.records)


# --- in Python ---


def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.from_numpy(data.images / 16.0).float()[:, None]
    y = torch.from_numpy(np.asarray(data.target))
    return (x[:500], y[:500]), (x[500:700], y[500:700])


def fit(samples, seed, device):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, samples.classes)).to(device)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(samples.x.to(device)), samples.y.to(device)).backward()
        optimizer.step()
    return net


def test_a_model_that_exists_is_poisoned_by_its_own_training():
    train, test = digits()
    model = fit(rs.Samples(*train, classes=10), 0, "cpu")
    report = rs.evaluate(
        model, test, attacks=["label-flip"], train=train, recipe=Recipe.by(fit), rules={"fraction": 0.4}
    )
    (record,) = (r for r in report.records if r.attack == "label-flip")
    assert record.status == "ok", record.message
    assert record.metrics["accuracy_drop"].value > 0.05
    assert record.metrics["poisoned"].value == 200
    assert record.training["poisoned"]["trained_by"]["samples"] == 500
    with pytest.raises(rs.RobustsuiteError, match=r"rs\.Recipe\.by\(fit\)"):
        rs.evaluate(model, test, attacks=["label-flip"], train=train)


def test_a_function_that_fails_in_python_is_an_error_record_and_no_figure():
    train, test = digits()
    model = fit(rs.Samples(*train, classes=10), 0, "cpu")
    for wrong, told in ((lambda samples: 1 / 0, "ZeroDivisionError"), (lambda samples: 7, "it returned int")):
        report = rs.evaluate(model, test, attacks=["label-flip"], train=train, recipe=Recipe.by(wrong))
        (record,) = (r for r in report.records if r.attack == "label-flip")
        assert (record.status, record.metrics) == ("error", {})
        assert told in record.message


def test_shadow_models_are_trained_by_the_users_function_too(folder):
    train, test = digits()
    samples, judged = rs.Samples(*train, classes=10), rs.Samples(*test, classes=10)
    loops = [Job.of("shadow", Recipe.by("train.py:loop"), samples, 0, number) for number in range(3)]
    halves = [samples.take(slice(start, start + 250)) for start in (0, 250)]  # whose convex loss has one minimum each
    lines = [Job.of("shadow", Recipe.by("train.py:pipeline"), half, 0, n) for n, half in enumerate(halves)]
    trainer = Trainer(0, stores=(Store(folder / "kept"),))
    answers = [trainer.job(job).model(judged.x).logits for job in (*loops, *lines)]
    assert len({job.seed for job in loops} | {0}) == 4
    assert all(not torch.equal(a, b) for i, a in enumerate(answers) for b in answers[:i])
    assert min(float((a.argmax(1) == judged.y).float().mean()) for a in answers) > 0.6
    assert len(calls()) == 5
    again = [trainer.job(job).model(judged.x).logits for job in (*loops, *lines)]
    assert all(map(torch.equal, again, answers))
    assert calls() == []
