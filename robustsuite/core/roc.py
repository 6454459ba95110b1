"""Receiver operating characteristics of scores: pure functions of scores and labels.

A score at or above a threshold says positive. Ties are ties: samples of equal score are told apart by no threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from robustsuite.core import checks
from robustsuite.core.intervals import rate
from robustsuite.core.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

_Z: Final = 1.959963984540054  # 97.5 % quantile of the standard normal
_HALVINGS: Final = 60  # of [0, 1], down to what float64 can hold


@dataclass(frozen=True, eq=False)
class Roc:
    """A curve by the corners that its thresholds reach, from (0, 0) to (1, 1).

    Args:
        false_positives: How many negatives are called positive, ascending, int64 `(k,)`.
        true_positives: How many positives are, int64 `(k,)`.
    """

    false_positives: Tensor
    true_positives: Tensor

    @property
    def negatives(self) -> int:
        """How many negatives there are."""
        return int(self.false_positives[-1])

    @property
    def positives(self) -> int:
        """How many positives there are."""
        return int(self.true_positives[-1])


def roc(scores: Tensor, positive: Tensor) -> Roc:
    """The curve of these scores.

    Args:
        scores: Floating `(n,)`, high for positives, infinities allowed.
        positive: Bool `(n,)`, with at least one of either kind.

    Raises:
        RequestError: NaN, or no positives or no negatives.

    Example:
        >>> curve = roc(torch.tensor([0.9, 0.8, 0.8, 0.1]), torch.tensor([True, False, True, False]))
        >>> curve.false_positives.tolist(), curve.true_positives.tolist()
        ([0, 0, 1, 2], [0, 1, 2, 2])
    """
    found = int(positive.sum())
    if bool(scores.isnan().any()) or not 0 < found < len(scores):
        got = f"{found} positives of {len(scores)}" if not scores.isnan().any() else "NaN"
        raise checks.fail("scores of positives and of negatives", "scores", got, "score some of either, without NaN")
    ordered, order = scores.double().sort(descending=True)
    right = positive[order].long()
    last = torch.ones(len(ordered), dtype=torch.bool)  # of those with this score
    last[:-1] = ordered[1:] != ordered[:-1]
    zero = torch.zeros(1, dtype=torch.int64)
    counts = (torch.cat([zero, what.cumsum(0)[last]]) for what in (1 - right, right))
    return Roc(*counts)


def auc(curve: Roc, *, better: str = "lower") -> Metric:
    """The area under a curve: how often a positive scores higher than a negative, where a tie counts half.

    The 95 % interval holds every area that lies within 1.96 standard errors of the one that was seen, where the error
    is that of Hanley and McNeil (Radiology 143, 1982) at the area in question, not at the one seen (Newcombe,
    Statistics in Medicine 25, 2006). So it never ends beyond 0 and 1, and has a length at both, where DeLong's
    (Biometrics 44, 1988) and Hanley and McNeil's own have none. It takes samples for independent.

    Args:
        curve: Of any scores.
        better: `higher` or `lower`, for the metric.
    """
    n, m = curve.negatives, curve.positives
    steps, heights = curve.false_positives.diff(), curve.true_positives[1:] + curve.true_positives[:-1]
    area = float((steps.double() * heights.double()).sum()) / (2.0 * n * m)  # sums of integers, exact below 2**53

    def apart(other: float) -> bool:
        return (area - other) ** 2 > _Z**2 * _variance(other, m, n)

    low, high = _end(apart, area, 0.0), _end(apart, area, 1.0)
    return Metric(area, n + m, low, high, "area", better)


def _variance(area: float, positives: int, negatives: int) -> float:
    """Of the area under the curve, by the exponential model of Hanley and McNeil."""
    above, below = area / (2 - area), 2 * area * area / (1 + area)
    spread = (positives - 1) * (above - area * area) + (negatives - 1) * (below - area * area)
    return (area * (1 - area) + spread) / (positives * negatives)


def _end(apart: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where areas begin to be too far from the one that was seen, between it and an extreme."""
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if apart(middle) else (middle, outside)
    return outside if outside in (0.0, 1.0) and not apart(outside) else inside


def tpr_at(curve: Roc, fpr: float, *, better: str = "lower") -> Metric:
    """The greatest true positive rate of a threshold whose false positive rate is at most this.

    The interval is that of a rate over the positives, at the threshold that was found: that it was found on the same
    negatives adds to it. Below one false positive in all negatives nothing can be resolved, and the value is NaN.

    Args:
        curve: Of any scores.
        fpr: In (0, 1).
        better: `higher` or `lower`, for the metric.
    """
    checks.real("fpr", fpr, low=0.0, high=1.0, open_low=True, open_high=True)
    if not resolvable(curve, fpr):
        return Metric(math.nan, curve.positives, unit="rate", better=better)
    allowed = curve.false_positives <= fpr * curve.negatives * (1 + 1e-12)
    hits = int(curve.true_positives[allowed].max())
    return rate(torch.arange(curve.positives) < hits, better)


def resolvable(curve: Roc, fpr: float) -> bool:
    """Whether there are negatives enough for one false positive at this rate."""
    return curve.negatives * fpr * (1 + 1e-12) >= 1
