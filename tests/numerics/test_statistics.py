"""Intervals against published values."""

import math

import pytest
import torch
from scipy.stats import binomtest

from robustsuite.core.intervals import clopper_pearson, interval, over_repeats, rate, wilson
from robustsuite.core.metric import Metric


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


# --- Exact intervals


@pytest.mark.parametrize(("successes", "n"), [(0, 100), (3, 100), (100, 100), (50, 200), (1, 1), (7, 19)])
def test_clopper_pearson_equals_scipy(successes, n):
    expected = binomtest(successes, n).proportion_ci(method="exact")
    assert clopper_pearson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-9)
    expected = binomtest(successes, n).proportion_ci(0.99, method="exact")
    assert clopper_pearson(successes, n, 0.99) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_clopper_pearson_equals_published_intervals():
    # Newcombe, Statistics in Medicine 1998, table I, method 5.
    for (successes, n), ends in {
        (81, 263): (0.2527, 0.3676),
        (15, 148): (0.0578, 0.1617),
        (0, 20): (0.0, 0.1684),
        (1, 29): (0.0009, 0.1776),
    }.items():
        assert clopper_pearson(successes, n) == pytest.approx(ends, abs=6e-5)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("successes", "n", "rule"),
    [
        (50, 99, clopper_pearson),
        (50, 100, wilson),
        (15, 100, wilson),
        (14, 100, clopper_pearson),
        (85, 100, wilson),
        (86, 100, clopper_pearson),
        (50, 1000, wilson),
        (49, 1000, clopper_pearson),
        (950, 1000, wilson),
        (951, 1000, clopper_pearson),
        (0, 0, clopper_pearson),
    ],
)
def test_the_interval_switches(successes, n, rule):
    assert interval(successes, n) == rule(successes, n)
    outcomes = torch.arange(n) < successes
    if n:
        assert (rate(outcomes, "higher").low, rate(outcomes, "higher").high) == rule(successes, n)


def test_repeats_that_never_fail_keep_the_width_of_one():
    """Three trainings of which none failed on the same 100 samples know no more of the samples than one."""
    one = rate(torch.zeros(100, dtype=torch.bool), "lower")
    merged = over_repeats([one] * 3)
    assert (merged.low, merged.high) == (one.low, pytest.approx(one.high))
