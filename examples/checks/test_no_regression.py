"""A new model is no worse than the released one, sample by sample.

Write the baseline once, and again whenever a model is released:
    pytest test_no_regression.py --baseline reports/released --robustsuite-update-baseline
"""

from pathlib import Path

import pytest

import robustsuite as rs

pytestmark = pytest.mark.security

BALL = rs.Ball("linf", 0.05)
ATTACKS = ["fgsm", "pgd(steps=20)"]
COMPARED = ("clean_accuracy", "robust_accuracy")


def test_nothing_got_worse(robustness, pytestconfig, model, data):
    """Paired: the same samples are judged, so far fewer of them show a difference than two intervals would."""
    baseline = pytestconfig.getoption("--baseline")
    if baseline is None:
        pytest.skip("no --baseline to compare with")
    report = rs.evaluate(model, data, ATTACKS, BALL, seed=0)
    robustness.assert_no_regression(report, baseline=Path(baseline).resolve(), metrics=COMPARED)
