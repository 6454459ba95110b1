"""Intervals for what was measured; `robustsuite.core.paired` has those of differences.

How often each covers the truth is measured in `benchmarks/COVERAGE.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from robustsuite.core.metric import Metric

if TYPE_CHECKING:
    from torch import Tensor

_Z: Final = 1.959963984540054  # 97.5 % quantile of the standard normal
_LEVEL: Final = 0.95
_MANY: Final = 100  # samples from which Wilson's interval is trusted
_EXTREME: Final = 0.05  # and rates this far from 0 and 1
_EITHER: Final = 15  # and so many of either outcome: below, its coverage falls to 92.6 % at some rates


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


def interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a rate: Wilson's in the middle, Clopper and Pearson's at the extremes and on few samples.

    Wilson's covers 95 % on average but falls far below at rates near 0 or 1, where attacks and certificates live; the
    exact one never does, and is wider than it need be in the middle. Wilson's stands from 100 samples on, where the
    rate seen lies in [0.05, 0.95] and either outcome was seen 15 times; so no rate is covered less than 93 % of the
    time, and 95 % on average.

    Args:
        successes: How many of `n`.
        n: Number of independent samples; 0 gives [0, 1].

    Example:
        >>> interval(50, 100) == wilson(50, 100), interval(1, 100) == clopper_pearson(1, 100)
        (True, True)
    """
    rarer = min(successes, n - successes)
    middle = n >= _MANY and rarer >= max(_EITHER, _EXTREME * n)
    return wilson(successes, n) if middle else clopper_pearson(successes, n)


def rate(outcomes: Tensor, better: str) -> Metric:
    """A rate over independent samples, with its `interval`; no samples give an undefined (NaN) value."""
    n, successes = len(outcomes), int(outcomes.sum())
    if n == 0:
        return Metric(math.nan, 0, None, None, "rate", better)
    low, high = interval(successes, n)
    return Metric(successes / n, n, low, high, "rate", better)


def at_level(metric: Metric, level: float | None) -> Metric:
    """The same figure; where it is a rate with an interval, with the exact one of this level, if one is given."""
    if level is None or metric.unit != "rate" or metric.low is None or metric.high is None or metric.n == 0:
        return metric
    low, high = clopper_pearson(round(metric.value * metric.n), metric.n, level)
    return replace(metric, low=low, high=high)


def least_rate(groups: Sequence[Tensor], better: str) -> Metric:
    """The least of several rates over disjoint groups, with a 95 % interval of the least true rate.

    A chosen minimum is not one rate: the interval of the group that happens to be worst misses the least true rate
    in up to a third of all cases. That lies above the lower end unless its own group's exact interval fails below, and
    below the upper end unless one of the k intervals fails above. So every lower end has the usual tail of 2.5 %, every
    upper end a k-th of it (Bonferroni), and the least of either stands. Groups of different size may differ in where
    they end, so `n` is that of the group that is worst.

    Args:
        groups: Outcomes of each group, bool `(n,)`; those without samples say nothing.
        better: `higher` or `lower`, for the metric.

    Returns:
        The least rate, NaN where no group has samples.
    """
    counts = [(int(group.sum()), len(group)) for group in groups if len(group) > 0]
    if not counts:
        return Metric(math.nan, 0, None, None, "rate", better)
    successes, n = min(counts, key=lambda pair: (pair[0] / pair[1], -pair[1]))
    low = min(clopper_pearson(*pair)[0] for pair in counts)
    high = min(clopper_pearson(*pair, 1 - (1 - _LEVEL) / len(counts))[1] for pair in counts)
    return Metric(successes / n, n, low, high, "rate", better)


def median(values: Tensor | Sequence[float]) -> float:
    """The median: the middle value, of an even number the mean of the middle two; NaN of none.

    The one median of the suite: torch's takes the lower of the middle two.

    Example:
        >>> median([0.1, 0.9, 0.2, 0.8]), median([3.0, 1.0, 2.0])
        (0.5, 2.0)
    """
    import torch

    ordered = torch.as_tensor(values).detach().double().flatten().sort().values
    count = len(ordered)
    if count == 0:
        return math.nan
    lower, upper = float(ordered[(count - 1) // 2]), float(ordered[count // 2])
    return lower if lower == upper else (lower + upper) / 2


def least_count(enough: Callable[[int], bool], more_than: int, most: int) -> int | None:
    """The least number above `more_than` that is enough, by doubling and bisection; None beyond `most`.

    Example:
        >>> least_count(lambda n: n * n >= 50, 2, 100)
        8
    """
    low, high = more_than, more_than + 1
    while not enough(high):
        low, high = high, 2 * high
        if high > most:
            return None
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def over_repeats(metrics: Sequence[Metric]) -> Metric:
    """The mean over independent trainings, with an interval that holds both sources of spread.

    With one repeat its own interval stands. With R repeats the variances add: Student's t over the repeats' values, and
    the mean length of the repeats' own intervals below and above their values, which does not shrink with R because
    every repeat is judged on the same samples.
    """
    values = [m.value for m in metrics]
    if len(values) == 1:
        return metrics[0]
    from scipy.special import stdtrit  # `scipy.stats`, which has it too, takes a second to import

    count = len(values)
    mean = sum(values) / count
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (count - 1))
    half = float(stdtrit(count - 1, 0.975)) * spread / math.sqrt(count)
    # Each side apart: an interval near 0 or 1 is longer towards the middle.
    ends = [(m.value - m.low, m.high - m.value) for m in metrics if m.low is not None and m.high is not None]
    sides = zip(*ends, strict=True) if ends else ((0.0,), (0.0,))
    below, above = (math.hypot(half, math.fsum(side) / len(side)) for side in sides)
    low, high = mean - below, mean + above
    if metrics[0].unit == "rate":
        low, high = max(0.0, low), min(1.0, high)
    return Metric(mean, sum(m.n for m in metrics), low, high, metrics[0].unit, metrics[0].better)
