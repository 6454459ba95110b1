"""A run's folder as a real run leaves it, with figures that are known."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from two_runs import Side

from robustsuite.core.intervals import rate
from robustsuite.core.metric import Metric
from robustsuite.evaluation.record_files import append, save_samples
from robustsuite.evaluation.records import Record

SUITE = """\
name: digits-defences
seed: 0
dataset: {name: digits}
model: {name: cnn}
threat: {norm: linf, radius: 0.3, curve: [0.1, 0.2]}
defenses: [none, adversarial-training, dp-sgd, input-validation, input-validation+adversarial-training]
attacks: [noise, fgsm, pgd, badnets, label-flip, model-inversion]
"""
STRENGTH = {"none": 0.0, "adversarial-training": 0.8, "dp-sgd": 0.15, "input-validation": 0.1}
ENVIRONMENT = {"python": "3.11", "device": "cpu", "threads": 1, "versions": {"robustsuite": "0.1.0", "torch": "2.15.0"}}


class Maker:
    """Writes records of a fake run, one after the other in plan order."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.order, self.records, self.radii = folder, 0, [], {}

    @staticmethod
    def number(value, unit="", better="", n=0):
        """A figure without an interval, as a record holds it."""
        return Metric(value, n, unit=unit, better=better)

    def add(self, defense, attack, scenario, columns=None, **fields):
        key = fields.pop("key", f"{self.order:024x}")
        radius, suite = fields.get("radius"), fields.get("suite")
        if radius is not None and radius != self.radii.setdefault(suite, radius):
            fields = {"sweep": "radius", **fields}
        record = Record(
            **{
                "key": key,
                "order": self.order,
                "suite": "digits-defences",
                "dataset": "digits",
                "model": "cnn",
                "defense": defense,
                "attack": attack,
                "scenario": scenario,
                "seconds": 1.5,
                "environment": ENVIRONMENT,
                **fields,
            }
        )
        if columns:
            path, digest = save_samples(self.folder, key, columns)
            record = replace(record, samples=path, samples_digest=digest)
        append(self.folder / "records.jsonl", record)
        self.order += 1
        self.records.append(record)
        return record

    def utility(self, defense, right, flags=(), **more):
        values = {"clean_accuracy": rate(right, "higher"), "parameters": self.number(52_394, "count"), **more}
        pace = 0.9 - 0.3 * float(right.float().mean())
        history = tuple(
            {"epoch": float(e), "train_loss": 2.3 * pace**e, "validation_accuracy": 1 - 0.8 * pace**e} for e in range(8)
        )
        return self.add(
            defense,
            "none",
            "utility",
            {"id": torch.arange(len(right)), "clean_correct": right},
            headline="clean_accuracy",
            metrics=values,
            flags=flags,
            cost={"forwards": len(right), "backwards": 0, "queries": 0},
            history=history,
            recipe={"build": {"is": "ModelSpec", "name": "cnn"}, "training": {"epochs": 8, "lr": 1e-3}},
        )

    def evasion(self, defense, attack, clean, robust, radius=0.3, images=True, **fields):
        n = len(robust)
        broken = clean & ~robust
        values = {
            "robust_accuracy": rate(robust, "higher"),
            "attack_success_rate": rate(broken[clean], "lower"),
            "clean_accuracy": rate(clean, "higher"),
        }
        columns = {
            "id": torch.arange(n),
            "clean_correct": clean,
            "robust": robust.clone(),
            "distance": torch.full((n,), float(radius)),
            "queries": torch.zeros(n, dtype=torch.int64),
        }
        if images:
            columns.update(pictures(radius, robust))
        given = {
            "headline": "robust_accuracy",
            "metrics": values,
            "knowledge": "white-box",
            "norm": "linf",
            "radius": radius,
            "cost": {"forwards": 40 * n, "backwards": 40 * n, "queries": 0},
            "attack_parameters": {"is": attack, "steps": 40},
        }
        return self.add(defense, attack, "evasion", columns, **{**given, **fields})


def pictures(radius, robust):
    """Artefacts of a gallery: blobs whose place is their label."""
    draw = torch.Generator().manual_seed(7)
    clean = blobs(8)
    moved = (clean + radius * torch.randn(clean.shape, generator=draw).sign()).clamp(0, 1)
    labels = torch.arange(8)
    return {
        "clean": clean,
        "adversarial": moved,
        "labels": labels,
        "predicted": torch.where(robust[:8], labels, (labels + 3) % 10),
    }


def blobs(k, size=16):
    grid = torch.linspace(-1, 1, size)
    angle = torch.arange(k) * 0.7
    x, y = 0.5 * angle.cos()[:, None, None], 0.5 * angle.sin()[:, None, None]
    return (-8 * ((grid[None, None, :] - x) ** 2 + (grid[None, :, None] - y) ** 2)).exp()[:, None].float()


def verdicts(share, n=200, seed=0):
    """Boolean outcomes of which exactly `share` hold."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order < round(share * n)


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path / "run")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Five defences, six attacks, a curve, and one of each kind of trouble; not to be written to."""
    maker = Maker(tmp_path_factory.mktemp("made") / "run")
    maker.folder.mkdir(parents=True)
    (maker.folder / "suite.yaml").write_text(SUITE)
    for place, defense in enumerate((*STRENGTH, "input-validation+adversarial-training")):
        _defended(maker, defense, place)
    return maker


@pytest.fixture
def run(made, tmp_path):
    """A copy of that run which a test may change."""
    copy = Maker(Path(shutil.copytree(made.folder, tmp_path / "run")))
    copy.order, copy.records, copy.radii = made.order, list(made.records), dict(made.radii)
    return copy


def _defended(maker, defense, place):
    strength = max(STRENGTH[part] for part in defense.split("+"))
    adaptive = ("not-adaptive",) if "input-validation" in defense else ()
    clean = verdicts(0.98 - 0.02 * place)
    facts = {"train_seconds": Maker.number(4.0 + 9.0 * place, "seconds", "lower")}
    if defense == "dp-sgd":
        facts |= {"epsilon": Maker.number(2.9968, "nats", "lower"), "delta": Maker.number(1e-5, "", "lower")}
    maker.utility(defense, clean, **facts)
    for attack, loss in (("noise", 0.05), ("fgsm", 0.5), ("pgd", 1.0)):
        standing = clean & verdicts(1 - loss * (1 - strength), seed=1)
        maker.evasion(defense, attack, clean, standing, flags=adaptive)
    _poisoning(maker, defense, clean, place)
    _inversion(maker, defense, place)
    for radius in (0.1, 0.2):
        for attack, loss in (("fgsm", 0.5), ("pgd", 1.0)):
            standing = (clean & verdicts(1 - loss * (1 - strength) * radius / 0.3, seed=1))[:64]
            maker.evasion(defense, attack, clean[:64], standing, radius=radius, images=False, flags=("few-samples",))


def _poisoning(maker, defense, clean, place):
    if defense == "dp-sgd":
        maker.add(defense, "badnets", "poisoning", status="error", message=TRACEBACK)
    else:
        shown = blobs(8).clone()
        shown[:, :, -3:, -3:] = 1.0
        images = {"clean": blobs(8), "triggered": shown, "labels": torch.arange(8)}
        success = rate(verdicts(0.99 - 0.1 * place, 180), "lower")
        fields = {"metrics": {"backdoor_success_rate": success, "clean_accuracy": rate(clean, "higher")}}
        maker.add(defense, "badnets", "poisoning", images, headline="backdoor_success_rate", **fields)
    drop = Metric(0.015 * place, 200, -0.01, 0.03 + 0.01 * place, "rate difference", "lower")
    maker.add(defense, "label-flip", "poisoning", headline="accuracy_drop", metrics={"accuracy_drop": drop})


def _inversion(maker, defense, place):
    if defense == "input-validation":
        maker.add(defense, "model-inversion", "inversion", status="not_applicable", message="expected train data")
        return
    noise = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(place))
    made = (0.6 * blobs(8) + 0.4 * noise).clamp(0, 1)
    images = {"reconstruction": made, "class_mean": blobs(8), "labels": torch.arange(8)}
    status = {"status": "inconclusive", "message": "the evaluator is weak"} if place == 4 else {}
    fields = {"metrics": {"inversion_accuracy": rate(torch.arange(10) < 8 - 2 * place, "lower")}, **status}
    maker.add(defense, "model-inversion", "inversion", images, headline="inversion_accuracy", **fields)


TRACEBACK = """Traceback (most recent call last):
  File "attacks/poisoning/badnets.py", line 41, in __call__
    raise ValueError("no <rows> left")
ValueError: no <rows> left
"""


@pytest.fixture
def old(tmp_path):
    return Side(tmp_path / "old")


@pytest.fixture
def new(tmp_path):
    # Nothing but what a cell is called joins it: neither key nor order, suite, model or seed.
    side = Side(tmp_path / "new", suite="renamed", model="resnet18", seed=7)
    side.count = 50
    return side
