"""A scenario from elsewhere: guess which label the deployed model gives, without asking it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustsuite.core import BudgetError, Metric, Metrics, MetricSpec, Streams, checks
from robustsuite.core.intervals import rate
from robustsuite.plugins import register
from robustsuite.scenarios import Bench, Scenario, Victim


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """What a guesser sees.

    Args:
        x: Test inputs `(N, ...)`.
        ids: Their ids `(N,)`.
        classes: How many labels there are.
    """

    x: Tensor
    ids: Tensor
    classes: int


@register.scenario("shift-guess")
@dataclass(frozen=True, kw_only=True)
class Guessing(Scenario[Unlabelled, Tensor]):
    """The artefact is one label per sample; the judge counts those that the model gives, and those that are near.

    Args:
        slack: How far a guess may be off and still be near, at least 0.
    """

    accesses: ClassVar[tuple[str, ...]] = ("inputs",)
    options: ClassVar[tuple[str, ...]] = ("slack",)
    sweeps: ClassVar[tuple[str, ...]] = ("slack",)
    metrics: ClassVar[Mapping[str, MetricSpec]] = {
        "guess_rate": MetricSpec(words="right guesses", better="lower", headline=True, outcome="guessed"),
        "near_rate": MetricSpec(words="near guesses", better="lower", headline=True, outcome="near", counted="able"),
        "guessed_labels": MetricSpec(words="labels that were guessed", unit="count"),
    }
    joined: ClassVar[str] = "guess_rate"
    default_attack: ClassVar[str] = "constant-guess"

    slack: int = 1

    def __post_init__(self) -> None:
        checks.integer("slack", self.slack, low=0)

    @classmethod
    def laws(cls):
        """Guesses are labels, and cost nothing."""
        return {"never-asks": _never_asks}

    def views(self, victim: Victim) -> Iterator[Unlabelled]:
        """The test inputs."""
        yield Unlabelled(victim.test.inputs(), victim.test.ids, victim.test.classes)

    def score(self, victim: Victim, moves: Iterable[tuple[Unlabelled, Tensor]]) -> Metrics:
        """Count what was guessed; near guesses of those samples that the model gets right."""
        ((view, guess),) = moves
        if guess.shape != view.ids.shape or guess.is_floating_point():
            raise BudgetError(f"expected one label per sample, got artefact={tuple(guess.shape)}; return integers")
        given = victim.clean.prediction
        guessed, near = guess == given, (guess - given).abs() <= self.slack
        values = {
            "guessed_labels": Metric(float(len(guess.unique())), unit="count"),
            "guess_rate": rate(guessed, "lower"),
            "near_rate": rate(near[victim.correct], "lower"),
        }
        columns = {"id": view.ids, "guessed": guessed, "near": near, "able": victim.correct}
        return Metrics(values, per_sample=columns)


def _never_asks(bench: Bench) -> None:
    found = bench.play(bench.victim(40))
    bench.require(not any(found.cost.values()), "guessing costs no pass", dict(found.cost))
    bench.require(0 <= found.values["guess_rate"].value <= 1, "a share of the samples", found.values)


@register.attack("constant-guess", scenario="shift-guess", access="inputs")
@dataclass(frozen=True, kw_only=True)
class ConstantGuess:
    """Guess one label for all.

    Args:
        guess: Which, at least 0.
    """

    guess: int = 0

    def __call__(self, view: Unlabelled, streams: Streams) -> Tensor:
        """Labels `(N,)`."""
        return torch.full_like(view.ids, self.guess)
