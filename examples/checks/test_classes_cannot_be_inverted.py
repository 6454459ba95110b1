"""Nobody can read off the model what the members of a class look like.

A network of another architecture, trained by the judge on data that the model never saw, says whether it recognises
what the attack reconstructed. The ceiling holds for this attack only, and on data whose classes are people it should
be near chance.
"""

import pytest

import robustsuite as rs

pytestmark = pytest.mark.security

CEILING = 0.6  # of ten classes two may be recognised: the interval of two in ten ends at .56
EVALUATOR = "mlp"  # quick to train; take a network of another architecture than the model's


def test_inversion(model, data, train_data, public_data, require):
    known = {"train": train_data, "public": public_data}
    report = rs.evaluate(model, data, "model-inversion", **known, rules={"evaluator": EVALUATOR}, seed=0)
    require(report, f"model-inversion:inversion_accuracy<={CEILING}")
