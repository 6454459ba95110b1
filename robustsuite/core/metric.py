"""What a judge measured: figures with their intervals, and all that stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from robustsuite.core import checks

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """One judged figure.

    Args:
        value: The figure.
        n: How many samples it rests on; 0 where it is no sample statistic.
        low: Lower end of the 95 % interval, or None.
        high: Upper end, or None.
        unit: "rate", "count", "seconds", "nats" …
        better: "higher", "lower" or "" (for the defender).
    """

    value: float
    n: int = 0
    low: float | None = None
    high: float | None = None
    unit: str = ""
    better: str = ""


@dataclass(frozen=True, eq=False)
class Payload:
    """Data that the report can draw; the kinds that there are stand in `payloads`.

    Args:
        title: What they show, in a few words.
    """

    title: str


@dataclass(frozen=True)
class Metrics:
    """A judgement: named figures, doubts, per-sample columns, and what the report can draw.

    Args:
        values: Metric name -> figure; the first is the headline, which stands in the comparison table, where none was
            measured that the scenario declares to be one.
        flags: Short codes of doubts.
        status: `ok` or `inconclusive`.
        message: Why, in one sentence, where the status is not ok; else what is worth a note.
        per_sample: Column name -> tensor `(N,)`; holds `id` where it is not empty.
        cost: Counted passes: `forwards`, `backwards`, `queries`, in samples.
        facts: JSON values of trainings of the judge's, for the record beside those of the victim's.
        payloads: What panels of the report may ask for: scores, images, sweeps.

    Raises:
        RequestError: A figure that is no `Metric`.
    """

    values: Mapping[str, Metric]
    flags: tuple[str, ...] = ()
    status: str = "ok"
    message: str = ""
    per_sample: Mapping[str, Tensor] = field(default_factory=dict)
    cost: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    payloads: tuple[Payload, ...] = ()

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if not isinstance(value, Metric):
                raise checks.fail("a Metric for each figure", name, value, "return Metric(value, n), with its interval")
