"""Utility: no adversary; what the deployed model is worth and what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import torch

from robustsuite.core.classification import calibration_error, macro
from robustsuite.core.intervals import median, rate
from robustsuite.core.metric import Metric, Metrics
from robustsuite.core.metrics import MetricSpec
from robustsuite.core.suspicions import Suspicion
from robustsuite.data.overlap import shared_inputs
from robustsuite.plugins.registry import register
from robustsuite.scenarios.chance import doubt_chance
from robustsuite.scenarios.protocol import Scenario
from robustsuite.scenarios.victim import Victim

METRICS: Final = {
    "clean_accuracy": MetricSpec(words="clean accuracy", better="higher", headline=True, outcome="clean_correct"),
    "rejection_rate_clean": MetricSpec(words="rejected clean inputs", better="lower"),
    "epsilon": MetricSpec(words="epsilon", unit="nats", better="lower", headline=True, accounted=True),
    "delta": MetricSpec(words="delta", unit="", better="lower", accounted=True),
    "precision_macro": MetricSpec(words="precision", better="higher"),
    "recall_macro": MetricSpec(words="recall", better="higher"),
    "f1_macro": MetricSpec(words="F1", better="higher"),
    "expected_calibration_error": MetricSpec(words="calibration error", better="lower"),
    "train_seconds": MetricSpec(words="training time", unit="seconds", better="lower"),
    "latency_ms": MetricSpec(words="latency", unit="milliseconds", better="lower"),
    "parameters": MetricSpec(words="parameters", unit="count"),
}
_TIMED: Final = 20  # single-sample calls whose median is the latency


@register.scenario("utility")
@dataclass(frozen=True)
class Utility(Scenario[None, None]):
    """Clean accuracy, precision, recall, calibration, latency, and the facts of the training.

    A rejected clean input is an error. Precision, recall and F1 are macro averages over the classes that occur.
    """

    accesses: ClassVar[tuple[str, ...]] = ("none",)
    metrics: ClassVar[Mapping[str, MetricSpec]] = METRICS
    default_attack: ClassVar[str] = "none"

    def views(self, victim: Victim) -> Iterator[None]:  # noqa: ARG002  # nobody sees anything
        """One empty view."""
        yield None

    def score(self, victim: Victim, moves: Iterable[tuple[None, None]]) -> Metrics:
        """Measure the untouched test samples."""
        for _ in moves:
            pass
        clean, right = victim.clean, victim.correct
        values = {"clean_accuracy": rate(right, "higher"), **_per_class(victim)}
        if bool(clean.rejected.any()) or not victim.model.fully_differentiable:
            values["rejection_rate_clean"] = rate(clean.rejected, "lower")
        error = calibration_error(clean.confidence, right)
        values["expected_calibration_error"] = Metric(error, len(right), unit="rate", better="lower")
        values["latency_ms"] = _latency(victim)
        values["parameters"] = Metric(float(victim.model.parameter_count()), unit="count")
        flags = doubt_chance(right, victim.test.y, victim.test.classes)
        if victim.trained is not None:
            values.update(_facts(victim))
            flags = (*flags, *victim.trained.flags)
        leaked, told = _in_training(victim)
        columns = {"id": victim.test.ids, "label": victim.test.y, "clean_correct": right}
        cost = {"forwards": len(victim.test), "backwards": 0, "queries": 0}
        message = "; ".join((*told, *victim.test.notes))
        return Metrics(values, (*flags, *leaked), message=message, per_sample=columns, cost=cost)


def _in_training(victim: Victim) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The flag `test-in-training` and how many test samples it is about, where what was trained on is known."""
    deployed = victim.trained is not None and victim.recipe is None  # trained elsewhere, on nobody knows what
    count = 0 if victim.train is None or deployed else shared_inputs(victim.test, victim.train)
    if count == 0:
        return (), ()
    told = f"{count:,} of the {len(victim.test):,} test inputs are in the training set as well, bit for bit"
    return (Suspicion.TEST_IN_TRAINING,), (told,)


def _per_class(victim: Victim) -> dict[str, Metric]:
    """Macro precision, recall and F1; a rejected input is a prediction of no class, as is one beyond the classes."""
    classes, y = victim.test.classes, victim.test.y
    prediction = torch.where(victim.clean.rejected, classes, victim.clean.prediction)
    found = macro(prediction, y, classes)
    return {
        f"{name}_macro": Metric(value, len(y), unit="rate", better="higher") for name, value in found._asdict().items()
    }


def _latency(victim: Victim) -> Metric:
    x = victim.test.batch(slice(0, 1), victim.device).x.to(victim.dtype).clone()  # a model may write to its input
    seconds = []
    with torch.no_grad():
        victim.model(x)
        for _ in range(_TIMED):
            started = time.perf_counter()
            victim.model(x).logits.cpu()
            seconds.append(time.perf_counter() - started)
    return Metric(median(seconds) * 1e3, unit="milliseconds", better="lower")


def _facts(victim: Victim) -> dict[str, Metric]:
    facts = victim.trained.facts if victim.trained is not None else {}
    units = {"epsilon": ("nats", "lower"), "delta": ("", "lower"), "train_seconds": ("seconds", "lower")}
    return {
        name: Metric(float(facts[name]), unit=unit, better=better)
        for name, (unit, better) in units.items()
        if facts.get(name) is not None
    }
