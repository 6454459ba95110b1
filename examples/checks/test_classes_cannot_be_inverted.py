"""Nobody can read off the model what the members of a class look like.

A network of another architecture, trained by the judge on the same data, says whether it recognises what the attack
reconstructed. The ceiling holds for this attack only, and on data whose classes are people it should be near chance.
"""

import pytest

import robustsuite as rs

pytestmark = pytest.mark.security

CEILING = 0.5
EVALUATOR = "mlp"  # quick to train; take a network of another architecture than the model's


def test_inversion(model, data, train_data, require):
    report = rs.evaluate(model, data, "model-inversion", train=train_data, rules={"evaluator": EVALUATOR}, seed=0)
    require(report, f"model-inversion:inversion_accuracy<={CEILING}")
