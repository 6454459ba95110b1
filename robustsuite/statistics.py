"""Intervals for what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from robustsuite.protocol import Metric

if TYPE_CHECKING:
    from torch import Tensor

_Z = 1.959963984540054  # 97.5 % quantile of the standard normal


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a rate (Wilson, JASA 1927).

    Example:
        >>> low, high = wilson(0, 100)
        >>> low, round(high, 4)
        (0.0, 0.037)
    """
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, _Z * _Z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a rate (Clopper and Pearson, Biometrika 1934): covers at least `level` at every rate and size.

    Args:
        successes: How many of `n`.
        n: Number of independent samples; 0 gives [0, 1].
        level: Coverage asked for, in (0, 1); each tail holds at most half of the rest.

    Returns:
        Lower and upper end, in [0, 1].

    Example:
        >>> low, high = clopper_pearson(0, 100)
        >>> low, round(high, 4)
        (0.0, 0.0362)
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return low, high


def rate(outcomes: Tensor, better: str) -> Metric:
    """A rate over independent samples, with its Wilson interval; no samples give an undefined (NaN) value."""
    n, successes = len(outcomes), int(outcomes.sum())
    if n == 0:
        return Metric(math.nan, 0, None, None, "rate", better)
    low, high = wilson(successes, n)
    return Metric(successes / n, n, low, high, "rate", better)


def over_repeats(metrics: Sequence[Metric]) -> Metric:
    """The mean over independent trainings, with an interval that holds both sources of spread.

    With one repeat its own interval stands. With R repeats the variances add: Student's t over the repeats' values, and
    the mean binomial half-width, which does not shrink with R because every repeat is judged on the same samples.
    """
    from scipy.stats import t

    values = [m.value for m in metrics]
    if len(values) == 1:
        return metrics[0]
    count = len(values)
    mean = sum(values) / count
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (count - 1))
    half = float(t.ppf(0.975, count - 1)) * spread / math.sqrt(count)
    within = [(m.high - m.low) / 2 for m in metrics if m.low is not None and m.high is not None]
    if within:
        half = math.hypot(half, sum(within) / len(within))
    low, high = mean - half, mean + half
    if metrics[0].unit == "rate":
        low, high = max(0.0, low), min(1.0, high)
    return Metric(mean, sum(m.n for m in metrics), low, high, metrics[0].unit, metrics[0].better)
