"""What matters is who survives every attack: two attacks that break different halves leave nobody.

A model may look robust to each attack that was tried, because the loss of one is masked and another is weak.
"""

import pytest

import robustsuite as rs

pytestmark = pytest.mark.security

BALL = rs.Ball("linf", 0.05)
ATTACKS = ["noise", "pgd(steps=20)", "pgd(steps=20, loss='margin')"]
FLOOR = 0.7


def test_worst_case(model, data, require):
    report = rs.evaluate(model, data, ATTACKS, BALL, seed=0)
    require(report, f"worst-case:robust_accuracy>={FLOOR}")
