"""Receiver operating characteristics, by hand, by closed forms and against scikit-learn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from robustsuite.core.errors import RequestError
from robustsuite.core.intervals import rate
from robustsuite.core.roc import auc, resolvable, roc, tpr_at

UP = torch.arange(10.0)
TOP = UP >= 5


@pytest.mark.parametrize(
    ("scores", "area"), [(UP, 1.0), (-UP, 0.0), (torch.zeros(10), 0.5), (torch.full((10,), -math.inf), 0.5)]
)
def test_perfect_inverted_and_constant_scores(scores, area):
    found = auc(roc(scores, TOP))
    assert (found.value, found.n) == (area, 10)
    assert 0 <= found.low <= area <= found.high <= 1
    assert found.high - found.low > 0.3, "five of either say little, also at the ends"


def test_a_constant_score_is_one_step():
    curve = roc(torch.zeros(10), TOP)
    assert (curve.false_positives.tolist(), curve.true_positives.tolist()) == ([0, 5], [0, 5])
    assert tpr_at(curve, 0.5).value == 0.0, "no threshold lets half of the negatives through"


SCORED = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


@settings(max_examples=200, deadline=None)
@given(SCORED)
def test_agrees_with_scikit_learn_also_on_ties(pairs):
    scores, positive = (torch.tensor(column) for column in zip(*pairs, strict=True))
    curve = roc(scores.float(), positive.bool())
    assert auc(curve).value == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    assert (curve.false_positives / curve.negatives).tolist() == pytest.approx(fpr)
    assert (curve.true_positives / curve.positives).tolist() == pytest.approx(tpr)


@settings(max_examples=100, deadline=None)
@given(SCORED)
def test_what_inverts_the_scores_mirrors_area_and_interval(pairs):
    scores, positive = (torch.tensor(column) for column in zip(*pairs, strict=True))
    there = auc(roc(scores.float(), positive.bool()))
    back = auc(roc(-scores.float(), ~positive.bool()))  # the same pairs, seen from the negatives
    assert back.value == pytest.approx(there.value)
    inverted = auc(roc(-scores.float(), positive.bool()))
    assert inverted.value == pytest.approx(1 - there.value)
    if len(scores) % 2 == 0 and int(positive.sum()) * 2 == len(scores):
        assert (inverted.low, inverted.high) == pytest.approx((1 - there.high, 1 - there.low), abs=1e-9)


def test_the_interval_is_where_hanley_and_mcneil_put_one_and_96_hundredths_of_an_error():
    scores, positive = torch.tensor([3.0, 1.0, 2.0, 0.0, 2.5]), torch.tensor([True, True, True, False, False])
    found = auc(roc(scores, positive))
    assert found.value == 4 / 6
    for end in (found.low, found.high):
        q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
        variance = (end * (1 - end) + 2 * (q1 - end**2) + 1 * (q2 - end**2)) / 6
        assert abs(found.value - end) == pytest.approx(1.959963984540054 * math.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1.19, 2.5])
def test_the_interval_covers_the_area_of_two_normals(shift):
    draw, truth, covered = torch.Generator().manual_seed(5), 0.5 * (1 + math.erf(shift / 2)), 0
    positive = torch.arange(100) < 50
    for _ in range(300):
        scores = torch.randn(100, generator=draw) + shift * positive
        found = auc(roc(scores, positive))
        covered += found.low <= truth <= found.high
    assert covered / 300 >= 0.92


def test_tpr_at_low_fpr_by_hand():
    """Two of 200 negatives stand above 30 of 50 positives, one of them above 40."""
    negatives = torch.cat([torch.tensor([10.0, 5.0]), torch.zeros(198)])
    positives = torch.cat([torch.full((10,), 11.0), torch.full((10,), 7.0), torch.full((30,), 3.0)])
    scores = torch.cat([negatives, positives])
    curve = roc(scores, torch.arange(250) >= 200)
    assert tpr_at(curve, 0.005) == rate(torch.arange(50) < 20, "lower")
    assert tpr_at(curve, 0.0099).value == 20 / 50
    assert tpr_at(curve, 0.01).value == 1.0, "two of 200 are one in a hundred"


def test_fewer_negatives_than_one_false_positive_takes_resolve_nothing():
    scores, positive = torch.randn(1100, generator=torch.Generator().manual_seed(0)), torch.arange(1100) >= 999
    curve = roc(scores, positive)
    assert math.isnan(tpr_at(curve, 0.001).value)
    assert not math.isnan(tpr_at(roc(scores, torch.arange(1100) >= 1000), 0.001).value), "1000 x 0.001 is one"
    assert not resolvable(curve, 0.001)


@pytest.mark.parametrize(
    ("scores", "positive"), [(UP, UP >= 0), (UP, UP < 0), (torch.tensor([1.0, math.nan]), torch.tensor([True, False]))]
)
def test_refuses_what_has_no_curve(scores, positive):
    with pytest.raises(RequestError, match="expected scores of positives and of negatives"):
        roc(scores, positive)
