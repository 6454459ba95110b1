"""Intervals against published values."""

import math

import pytest
import torch

from robustsuite.protocol import Metric
from robustsuite.statistics import over_repeats, rate, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_published_intervals(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=6e-5)
    mirrored = wilson(n - successes, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=6e-5)


def test_wilson_at_the_edges():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(7, 7)[1] == 1.0
    assert wilson(0, 7)[0] == 0.0


def test_wilson_covers():
    """Over all outcomes of n = 50 at p = 0.9 the interval holds p with about 95 % probability."""
    n, p = 50, 0.9
    weight = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    covered = sum(w for k, w in enumerate(weight) if wilson(k, n)[0] <= p <= wilson(k, n)[1])
    assert 0.93 < covered < 0.98


def test_a_rate_counts_exactly():
    metric = rate(torch.tensor([True] * 33 + [False] * 68), "higher")
    assert (metric.value, metric.n, metric.unit, metric.better) == (33 / 101, 101, "rate", "higher")
    assert math.isnan(rate(torch.zeros(0, dtype=torch.bool), "higher").value)


def test_repeats_add_both_sources_of_spread():
    one = Metric(0.9, 100, 0.85, 0.95, "rate", "higher")
    assert over_repeats([one]) == one
    equal = over_repeats([one] * 3)
    assert (equal.low, equal.high) == pytest.approx((0.85, 0.95))
    # Without intervals of their own: mean 2, s = 1, t(0.975, 2) = 4.302653.
    spread = over_repeats([Metric(v) for v in (1.0, 2.0, 3.0)])
    assert (spread.low, spread.value, spread.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2, 2 + 4.302653 / 3**0.5))
    both = over_repeats([Metric(v, 100, v - 0.3, v + 0.4) for v in (1.0, 2.0, 3.0)])
    assert both.value - both.low == pytest.approx(math.hypot(4.302653 / 3**0.5, 0.3))
    assert both.high - both.value == pytest.approx(math.hypot(4.302653 / 3**0.5, 0.4))
    wide = over_repeats([Metric(v, 10, 0.0, 1.0, "rate") for v in (0.0, 1.0)])
    assert (wide.low, wide.high) == (0.0, 1.0)
