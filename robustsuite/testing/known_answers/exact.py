"""Known-answer tests of exactness: privacy accounting, intervals, and one seed that gives one result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

import torch

from robustsuite.api.evaluate import evaluate
from robustsuite.core.ball import Ball
from robustsuite.core.canonical import digest
from robustsuite.core.intervals import clopper_pearson, rate, wilson
from robustsuite.core.metric import Metric
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.models.build import ModelSpec
from robustsuite.plugins.by_name import attack
from robustsuite.plugins.by_name import defense as made_defense
from robustsuite.report.report import Report
from robustsuite.results.deciding import decide
from robustsuite.testing.known_answers.known_answer import Finding, at_most, near, same
from robustsuite.testing.known_answers.materials import NearestMean, column, digits, figure, templates
from robustsuite.training.cache import Trainer
from robustsuite.training.fabric import make_fabric
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

_DELTA: Final = 1e-5
_FEW: Final = 60  # samples that are judged one by one, too: as many as tell a draw that is not keyed
_OLD_ORDERS: Final = tuple(range(2, 65))
# Newcombe, Statistics in Medicine 17 (1998), table I: successes, n, the score interval, the exact interval.
_NEWCOMBE: Final = (
    (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
    (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
    (0, 20, (0.0, 0.1611), (0.0, 0.1684)),
    (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
)


def accounting() -> Iterator[Finding]:
    """Epsilon of N = 60,000, B = 240, sigma = 1.3, 15 epochs is the published one, and the noise is really added."""
    yield from _published()
    settings = Training(epochs=2, batch_size=64, optimizer="sgd", lr=0.25)
    loud = made_defense("dp-sgd", noise_multiplier=1000.0)(Recipe(build=ModelSpec("logistic"), training=settings))
    trained = Trainer(0)(loud, digits("train"))
    report = evaluate(trained.model, digits("test"), "none")
    yield at_most("clean accuracy at sigma = 1000", 0.3, figure(report.records[0], "clean_accuracy"))
    steps = 2 * round(len(digits("train")) / 64)
    yield near("steps accounted for", steps, float(trained.facts["steps"]), 0.0)
    yield at_most("epsilon at sigma = 1000", 0.01, float(trained.facts["epsilon"]))


def _published() -> Iterator[Finding]:
    from opacus.accountants.analysis.rdp import compute_rdp

    n, batch, sigma, epochs = 60_000, 240, 1.3, 15
    steps = epochs * n // batch
    settings = Training(epochs=epochs, batch_size=batch, optimizer="sgd", lr=0.25)
    recipe = made_defense("dp-sgd", noise_multiplier=sigma, delta=_DELTA)(
        Recipe(build=ModelSpec("logistic"), training=settings)
    )
    samples = Samples(torch.zeros(n, 1, 2, 2), torch.arange(n) % 2, 2)
    network = recipe.build(2, samples.shape, samples.bounds)
    fabric = make_fabric("cpu")
    updater = recipe.update.start(network, samples, recipe.training, Streams(0), fabric)
    # The accountant of a training that was interrupted after its last step: no step has to be taken to ask it.
    updater.restore({**updater.state(), "history": [[sigma, batch / n, steps]], "steps": steps})
    yield near("epsilon, improved conversion", 0.922, float(updater.facts()["epsilon"]), 5e-3)
    updater.finish()
    divergence = compute_rdp(q=batch / n, noise_multiplier=sigma, steps=steps, orders=list(_OLD_ORDERS))
    old = min(d + math.log(1 / _DELTA) / (a - 1) for d, a in zip(divergence, _OLD_ORDERS, strict=True))
    yield near("epsilon, old conversion, orders 2 to 64", 1.160, old, 1e-3)


def statistics() -> Iterator[Finding]:
    """Intervals are those of the textbook, and a gate has three outcomes."""
    for successes, n, score, exact in _NEWCOMBE:
        for name, found, known in (
            ("Wilson", wilson(successes, n), score),
            ("Clopper-Pearson", clopper_pearson(successes, n), exact),
        ):
            yield same(f"{name} {successes}/{n}", _ends(known), _ends(found))
    seen = rate(torch.arange(263) < 81, "higher")
    yield same("the interval of a metric, 81/263", _ends(_NEWCOMBE[0][2]), _ends((seen.low or 0.0, seen.high or 0.0)))
    for value, outcome in ((0.95, "passed"), (0.6, "failed"), (0.81, "inconclusive")):
        low, high = wilson(round(value * 100), 100)
        metric = Metric(value, 100, low, high, "rate", "higher")
        yield same(f"{value:g} of 100 against a floor of 0.8", outcome, decide(metric, 0.8, name="rate").outcome.value)


def _ends(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.4f}, {interval[1]:.4f}]"


def determinism() -> Iterator[Finding]:
    """One seed gives one record, in any batch size, order and global random state; another seed draws anew."""
    test = digits("test").take(slice(0, _FEW))
    first = _noised(test)
    torch.manual_seed(1)
    yield same("the same evaluation again", _told(first), _told(_noised(test)))
    for size in (1, 7):
        other = _noised(test, rules={"batch_size": size})
        differ = sum(
            int((column(first, a, "robust") != column(other, b, "robust")).sum())
            for a, b in zip(first.records[1:], other.records[1:], strict=True)
        )
        yield near(f"verdicts that differ at batch size {size}", 0, differ, 0)
    backwards = _noised(test.take(torch.arange(len(test)).flip(0)))
    yield same("each sample's noise in another order", True, _distances(first).equal(_distances(backwards).flip(0)))
    yield same("each sample's noise by another seed", False, _distances(first).equal(_distances(_noised(test, seed=1))))
    recipe = Recipe(build=ModelSpec("mlp"), training=Training(epochs=2, validation=0.0))
    one, two = (Trainer(0)(recipe, digits("train")).model.network.state_dict() for _ in range(2))
    equal = all(torch.equal(value, two[name]) for name, value in one.items())
    yield same("two trainings by one seed have the same weights", True, equal)


def _noised(samples: Samples, rules: Mapping[str, Any] | None = None, **options: Any) -> Report:
    """Two attacks that draw, and nothing beside them."""
    model = NearestMean(templates(digits("train")))
    attacks = ["noise", attack("pgd", steps=5)]
    return evaluate(
        model,
        samples,
        attacks,
        Ball("linf", 0.1),
        rules={"follow_up": False, **(rules or {})},
        **options,
    )


def _distances(report: Report) -> torch.Tensor:
    """How far the noise moved each sample, 0 for those that were not attacked."""
    return column(report, report.records[1], "distance").nan_to_num()


def _told(report: Report) -> str:
    """A digest of all that a report says but how long it took."""
    left_out = ("seconds", "environment")
    lines = [{k: v for k, v in asdict(record).items() if k not in left_out} for record in report.records]
    for line in lines:
        line["metrics"] = {k: v for k, v in line["metrics"].items() if k != "latency_ms"}
    return digest(lines)
