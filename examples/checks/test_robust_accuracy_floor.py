"""The model withstands an iterated attack on at least this share of the samples."""

import pytest

pytestmark = pytest.mark.security

BALL = ("linf", 0.05)
FLOOR = 0.7


def test_robust_accuracy(robustness, model, data):
    """Stops as soon as the interval is on one side of the floor, so ample data cost nothing."""
    robustness.assert_robust(model, data, attack="pgd(steps=40)", ball=BALL, at_least=FLOOR)
