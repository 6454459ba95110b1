"""Stopping wherever time is up keeps the level: exact sums over all that may happen, whatever makes one stop."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binom

from robustsuite.core.errors import RequestError
from robustsuite.core.intervals import clopper_pearson
from robustsuite.evaluation.looks import ERROR, InterimLook, looks_at_any_time


def missed_anywhere(plan, rate):
    """Exact probability that the interval of some look does not hold the rate."""
    held, before = np.ones(1), 0
    for look in plan:
        held = np.convolve(held, binom.pmf(np.arange(look.n - before + 1), look.n - before, rate))
        low, high = np.array([look.interval(k) for k in range(look.n + 1)]).T
        held, before = held * ((low <= rate) & (rate <= high)), look.n
    return 1 - held.sum()


@pytest.mark.parametrize("n", [20, 64, 200])
def test_all_looks_together_hold_the_rate(n):
    """So whoever stops holds it, by time, by a verdict or for no reason, and goes on, or does not."""
    plan = looks_at_any_time(n)
    missed = [missed_anywhere(plan, rate) for rate in (0.005, 0.02, 0.1, 0.3, 0.5, 0.62, 0.9, 0.99)]
    assert max(missed) <= ERROR
    assert max(missed) > 0.5 * ERROR  # and little is given away


def test_without_a_level_for_all_looks_the_rate_would_be_missed_often():
    naive = [InterimLook(look.n, 0.95) for look in looks_at_any_time(200)]
    assert missed_anywhere(naive, 0.3) > 0.2


def test_the_last_look_has_half_of_the_error():
    plan = looks_at_any_time(360)
    assert plan[-1] == InterimLook(360, 1 - ERROR / 2)
    assert len({look.level for look in plan[:-1]}) == 1
    assert plan[0].level == pytest.approx(0.9963, abs=2e-4)


@pytest.mark.parametrize("n", [17, 64, 1000, 5000])
def test_looks_grow_by_a_tenth(n):
    sizes = [look.n for look in looks_at_any_time(n)]
    assert sizes[-1] == n
    assert 16 <= sizes[0] <= 17
    assert all(a < b <= max(a + 1, 1.16 * a) for a, b in pairwise(sizes))


def test_few_samples_are_looked_at_once_at_95_percent():
    (only,) = looks_at_any_time(15)
    assert (only.n, only.level) == (15, 0.95)
    assert only.interval(15) == clopper_pearson(15, 15)


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_no_samples_no_looks(n):
    with pytest.raises(RequestError, match="n="):
        looks_at_any_time(n)
