"""Tests and intervals of differences against published values, enumeration, and independent optimisation."""

import itertools

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binomtest

from robustsuite.core.errors import RequestError
from robustsuite.core.paired import crossed, holm, mcnemar, paired_interval, sign_flip

Z = 1.959963984540054


@pytest.mark.parametrize(("worse", "better"), [(0, 1), (3, 10), (5, 5), (120, 80), (1000, 1100)])
def test_mcnemar_is_a_binomial_test_of_the_flips(worse, better):
    total = worse + better
    assert mcnemar(worse, better) == pytest.approx(binomtest(worse, total).pvalue)
    for side, alternative in (("worse", "greater"), ("better", "less")):
        expected = binomtest(worse, total, alternative=alternative).pvalue
        assert mcnemar(worse, better, side=side) == pytest.approx(expected)


def test_mcnemar_at_the_edges():
    assert {mcnemar(0, 0, side=side) for side in ("both", "worse", "better")} == {1.0}
    assert mcnemar(0, 6) == mcnemar(6, 0) == 2 * 0.5**6
    with pytest.raises(RequestError, match="worse=-1"):
        mcnemar(-1, 3)
    with pytest.raises(RequestError, match="did you mean 'worse'"):
        mcnemar(1, 3, side="wors")


@pytest.mark.parametrize("differences", [[2, -1, 3, 3, 1], [1, 1, 1, -1, 0, 0], [5, -5], [3, 3, 3, 3], [0, 0], []])
def test_sign_flip_is_the_enumeration_of_all_swaps(differences):
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
            for signs in itertools.product((1, -1), repeat=len(differences))]  # fmt: skip
    expected = sum(total >= abs(sum(differences)) for total in sums) / len(sums)
    assert sign_flip(differences) == pytest.approx(expected)


def test_sign_flip_with_one_repeat_is_mcnemar():
    for worse, better in ((3, 10), (0, 8), (150, 100)):
        assert sign_flip([-1] * worse + [1] * better + [0] * 50) == pytest.approx(mcnemar(worse, better))


def test_sign_flip_keeps_its_precision_far_out():
    assert sign_flip([1] * 200) == pytest.approx(2 * 0.5**200, rel=1e-9)
    assert sign_flip([3] * 150) == pytest.approx(2 * 0.5**150, rel=1e-9)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "low", "high"),
    # Fagerland, Lydersen and Laake, Statistics in Medicine 2014: airway hyper-responsiveness, 7 and 1 of 21 discordant.
    [(1, 7, 21, -0.517, -0.026), (7, 1, 21, 0.026, 0.517)],
)
def test_the_paired_interval_equals_the_published_one(gained, lost, n, low, high):
    assert paired_interval(gained, lost, n) == pytest.approx((low, high), abs=6e-4)


def score(gained, lost, n, difference):
    """Tango's statistic with the nuisance parameter found by maximising the likelihood numerically."""

    def loss(q):  # chance of losing a sample; of gaining one it is q + difference
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = [(gained, q + difference), (lost, q), (n - gained - lost, 1 - 2 * q - difference)]
            return -sum(k * np.log(p) for k, p in terms if k)

    bounds = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    q = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return (gained - lost - n * difference) / np.sqrt(n * (2 * q + difference * (1 - difference)))


@pytest.mark.parametrize(("gained", "lost", "n"), [(5, 12, 100), (20, 3, 60), (9, 9, 40), (2, 30, 500)])
def test_the_paired_interval_inverts_the_score_test(gained, lost, n):
    centre = (gained - lost) / n
    low = brentq(lambda d: score(gained, lost, n, d) - Z, -0.99, centre - 1e-9)
    high = brentq(lambda d: score(gained, lost, n, d) + Z, centre + 1e-9, 0.99)
    assert paired_interval(gained, lost, n) == pytest.approx((low, high), abs=1e-5)


def test_the_paired_interval_at_the_edges():
    low, high = paired_interval(0, 0, 100)
    assert high == -low == pytest.approx(Z**2 / (100 + Z**2), abs=1e-9)
    assert paired_interval(0, 0, 0) == (-1.0, 1.0)
    assert paired_interval(5, 0, 5)[1] == pytest.approx(1.0)
    with pytest.raises(RequestError, match="n=4"):
        paired_interval(3, 2, 4)


def test_holm_equals_its_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(RequestError, match=r"p=1\.5"):
        holm([1.5])


def test_a_planted_loss_in_every_training_is_found():
    old = np.zeros((3, 200), dtype=bool)
    old[:, :120] = True
    new = old.copy()
    new[:, :20] = False
    found = crossed(old, new)
    assert found.value == pytest.approx(-0.1)
    assert found.p_weights == pytest.approx(mcnemar(20, 0))
    assert found.p_weights < found.p < 1e-4  # the trainings agree on every sample
    assert -0.16 < found.low < -0.1 < found.high < -0.04


def test_trainings_widen_the_interval():
    old = np.tile(np.arange(400) < 200, (3, 1))
    alike, apart = (np.stack([np.arange(400) < k for k in rates]) for rates in ((180, 180, 180), (120, 180, 240)))
    narrow, wide = crossed(old, alike), crossed(old, apart)
    assert narrow.value == wide.value == pytest.approx(-0.05)
    assert narrow.high < 0 < wide.high


def test_crossed_refuses_one_training():
    with pytest.raises(RequestError, match="trainings=1"):
        crossed(np.ones((1, 5), dtype=bool), np.ones((1, 5), dtype=bool))
