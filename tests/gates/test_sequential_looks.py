"""Looking again and again keeps the error: exact sums over levels, and thousands of simulated runs."""

from itertools import pairwise

import numpy as np
import pytest

from robustsuite.core.errors import RequestError
from robustsuite.evaluation.looks import ERROR, looks


@pytest.mark.parametrize("n", [1, 2, 63, 64, 100, 127, 128, 129, 1000, 4097, 10_000])
def test_looks_end_at_all_samples_and_spend_the_error_once(n):
    found = looks(n)
    assert found[-1].n == n
    assert all(a.n < b.n for a, b in pairwise(found))
    assert all(look.n >= 64 for look in found[:-1])
    assert all(b.n in (2 * a.n, 2 * a.n - 1) for a, b in pairwise(found))
    assert sum(1 - look.level for look in found) == pytest.approx(ERROR)
    assert all(0 < look.level < 1 for look in found)


def test_few_samples_are_looked_at_once_at_95_percent():
    (only,) = looks(126)
    assert only.level == pytest.approx(0.95)
    assert only.interval(0) == pytest.approx((0.0, 1 - 0.025 ** (1 / 126)))


def test_the_last_look_keeps_most_of_the_error():
    *_, last = looks(4096)
    assert 1 - last.level == pytest.approx(ERROR * (1 - 0.5**1.5))
    assert looks(4096)[0].n == 64


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_no_samples_no_looks(n):
    with pytest.raises(RequestError, match="n="):
        looks(n)


def decided(n, rate, floor, runs, generator, plan=None):
    """Shares of runs that pass and that fail, as the gate decides, and the mean number of samples."""
    outcome, used = np.zeros(runs, int), np.full(runs, n)
    successes, before = np.zeros(runs, int), 0
    for look in plan or looks(n):
        successes += generator.binomial(look.n - before, rate, runs)
        before = look.n
        low, high = np.array([look.interval(k) for k in range(look.n + 1)])[successes].T
        now = np.where(low >= floor, 1, np.where(high < floor, -1, 0))
        new = (outcome == 0) & (now != 0)
        outcome[new], used[new] = now[new], look.n
    return (outcome == 1).mean(), (outcome == -1).mean(), used.mean()


@pytest.mark.parametrize("floor", [0.05, 0.4, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("n", [100, 1000])
def test_wrong_decisions_are_rare_on_either_side_of_the_floor(n, floor):
    """At the floor itself wrong decisions are most frequent: a model just below must not pass, one on it not fail."""
    generator = np.random.default_rng([n, round(100 * floor)])
    runs = 20_000
    slack = 3 * np.sqrt(0.025 * 0.975 / runs)
    passed, failed, _ = decided(n, floor, floor, runs, generator)
    assert passed <= 0.025 + slack
    assert failed <= 0.025 + slack
    below, _, _ = decided(n, floor * 0.98, floor, runs, generator)
    _, above, _ = decided(n, min(1.0, floor * 1.01), floor, runs, generator)
    assert below <= passed + slack
    assert above <= failed + slack


def test_without_spending_it_would_be_wrong_more_often():
    """The test above can fail: five looks at 95 % each pass twice as many models that are on the floor."""
    naive = [type(look)(look.n, 0.95) for look in looks(2000)]
    passed, failed, _ = decided(2000, 0.5, 0.5, 20_000, np.random.default_rng(0), naive)
    assert passed + failed > 0.08


def test_it_saves_samples_where_the_answer_is_plain_and_costs_little_where_it_is_not():
    """The figures that the module states, for 1000 samples and a floor of 0.5."""
    generator = np.random.default_rng(1)
    plain, _, used = decided(1000, 0.7, 0.5, 20_000, generator)
    assert plain == 1.0
    assert used == pytest.approx(136, abs=3)
    near, _, _ = decided(1000, 0.54, 0.5, 20_000, generator)
    assert near == pytest.approx(0.66, abs=0.015)
    (fixed,) = [type(look)(look.n, 0.95) for look in looks(1000)[-1:]]
    once, _, _ = decided(1000, 0.54, 0.5, 20_000, generator, [fixed])
    assert once == pytest.approx(0.71, abs=0.015)
