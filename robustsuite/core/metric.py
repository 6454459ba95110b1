"""What a judge measured: figures with their intervals, and all that stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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


@dataclass(frozen=True)
class Metrics:
    """A judgement: named figures, doubts, per-sample columns, and artefacts for the gallery.

    Args:
        values: Metric name -> figure; the first is the headline, which stands in the comparison table, where none was
            measured that the scenario declares to be one.
        flags: Short codes of doubts.
        status: `ok` or `inconclusive`.
        message: Why, in one sentence, where the status is not ok; else what is worth a note.
        per_sample: Column name -> tensor `(N,)`; holds `id` where it is not empty.
        artefacts: Name -> tensor, a small share kept for figures.
        cost: Counted passes: `forwards`, `backwards`, `queries`, in samples.
    """

    values: Mapping[str, Metric]
    flags: tuple[str, ...] = ()
    status: str = "ok"
    message: str = ""
    per_sample: Mapping[str, Tensor] = field(default_factory=dict)
    artefacts: Mapping[str, Tensor] = field(default_factory=dict)
    cost: Mapping[str, int] = field(default_factory=dict)
