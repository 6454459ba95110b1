"""What a scenario says of the figures that it measures, so that tables, gates and comparisons keep no list of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from robustsuite.core import checks
from robustsuite.core.errors import RequestError

FOLLOWED_UP: Final = "_followed_up"
"""Ends the name of a metric that holds what an attack and its follow-up attacks broke together."""
OWN: Final = "_own"
"""Ends the name of a metric of the worst case that holds what the attacks broke without their follow-up attacks."""
POWER: Final = "attack_power"
"""The share of planted adversarial examples that an attack finds; behind `FOLLOWED_UP`, with its follow-up attacks."""
DISTANCE: Final = "distance"
"""The unit of a figure that is measured in the norm of the ball."""
SIDES: Final = ("higher", "lower")


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One figure of a scenario, as its class declares it and its records carry it.

    Args:
        words: What people read, such as `backdoor success`; empty for the name with spaces.
        unit: As in `Metric`: `rate`, `count`, `seconds` …; `distance` stands for the norm of the ball.
        better: `higher`, `lower` or empty, for the defender.
        headline: Whether it is a column of the comparison table. A scenario may have several; where none of them was
            measured, the first figure that was is.
        outcome: Column of the per-sample file, bool, that says for which samples the rate's event happened; empty for
            a column of the metric's own name, where there is one.
        counted: Column, bool, of the samples that the rate counts; empty where all do.
        all_before: Whether older files lack that column, and count every sample.
        accounted: Whether it is a proven bound, which needs no test to be called weaker.
        untouched: Whether no attack takes part in it, so that a doubt about an attack is none about it.
        undirected: Whether a doubt that can only flatter the model may move it either way.

    Raises:
        RequestError: Another word for what is better.

    Example:
        >>> MetricSpec(words="backdoor success", better="lower", headline=True, outcome="hit").written("backdoor")
        {'name': 'backdoor', 'words': 'backdoor success', 'better': 'lower', 'headline': True, 'outcome': 'hit'}
    """

    words: str = ""
    unit: str = "rate"
    better: str = ""
    headline: bool = False
    outcome: str = ""
    counted: str = ""
    all_before: bool = False
    accounted: bool = False
    untouched: bool = False
    undirected: bool = False

    def __post_init__(self) -> None:
        checks.one_of("better", self.better, (*SIDES, ""))

    def written(self, name: str) -> dict[str, Any]:
        """Its name and what differs from the defaults, as a record holds it."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        return {"name": name, **given}


@dataclass(frozen=True)
class Declared:
    """What a scenario declares of its figures.

    Args:
        metrics: Every figure that it may measure, in the order in which they are shown.
        joined: The rate whose outcomes are joined per sample over all attacks into the worst case; empty where attacks
            are not joined.
    """

    metrics: Mapping[str, MetricSpec] = field(default_factory=dict)
    joined: str = ""

    def spec(self, metric: str) -> MetricSpec:
        """What this figure is; of one that nobody declared, its name."""
        return self.metrics.get(metric) or MetricSpec(unit="")

    def words(self, metric: str) -> str:
        """What people read for this figure."""
        return self.spec(metric).words or metric.replace("_", " ")

    def place(self, metric: str) -> int:
        """By what its figures are sorted: as they are declared, others behind them."""
        names = list(self.metrics)
        return names.index(metric) if metric in names else len(names)

    @property
    def headlines(self) -> tuple[str, ...]:
        """Names of the figures that are columns of the comparison table."""
        return tuple(name for name, spec in self.metrics.items() if spec.headline)

    def with_own(self) -> Self:
        """The same for a worst case, which tells besides what was left without follow-up attacks."""
        spec = self.spec(self.joined)
        own = dataclasses.replace(spec, words=f"{spec.words} without follow-up attacks", headline=False)
        return dataclasses.replace(self, metrics={**self.metrics, self.joined + OWN: own})

    def written(self) -> dict[str, Any]:
        """As a record holds it."""
        return {"joined": self.joined, "metrics": [spec.written(name) for name, spec in self.metrics.items()]}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """What `written` made; keys of a later version are ignored.

        Raises:
            TypeError: Anything else.
        """
        known = {f.name for f in dataclasses.fields(MetricSpec)}
        listed: Iterable[Mapping[str, Any]] = values.get("metrics", ())
        try:
            metrics = {str(m["name"]): MetricSpec(**{k: v for k, v in m.items() if k in known}) for m in listed}
        except (KeyError, RequestError) as error:
            raise TypeError(f"expected what a record says of its figures, got {values!r}") from error
        return cls(metrics, str(values.get("joined", "")))
