"""Defences compose as functions: every pair, in both orders, and the pairs that are refused."""

import dataclasses

import pytest
import torch

from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.defenses.adversarial_training import AdversarialTraining
from robustsuite.defenses.dp_sgd import DPSGD
from robustsuite.defenses.input_validation import InputValidation
from robustsuite.plugins.registry import defenses
from robustsuite.scenarios.victim import Victim
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_parts, tiny_recipe
from robustsuite.training.cache import Trainer

HARD = AdversarialTraining(attack={"pgd": {"steps": 2, "step_size": 0.75}})
PRIVATE = DPSGD(noise_multiplier=0.5, delta=1e-3)
CHECKED = InputValidation(false_alarm_rate=0.1)


def plain():
    made = tiny_recipe()
    settings = made.training.override({"optimizer": "sgd", "lr": 0.1, "epochs": 5})
    return dataclasses.replace(made, training=settings, threat=Ball("linf", 0.03))


def test_they_are_registered():
    names = {entry.name for entry in defenses.all()}
    assert {"adversarial-training", "dp-sgd", "input-validation"} <= names
    for name in ("adversarial-training", "dp-sgd", "input-validation"):
        entry = defenses.get(name)
        assert entry.taxonomy
        assert entry.summary.endswith(".")


@pytest.mark.parametrize(
    "parts",
    [
        (HARD, CHECKED),
        (CHECKED, HARD),
        (PRIVATE, CHECKED),
        (CHECKED, PRIVATE),
        (HARD, PRIVATE),
        (PRIVATE, HARD, CHECKED),
    ],
    ids=lambda parts: "+".join(part.plugin_name for part in parts),
)
def test_compositions_train_and_answer(parts):
    recipe = plain()
    for part in parts:
        recipe = part(recipe)
    trained = Trainer(0, part=tiny_parts())(recipe, tiny_samples(320))
    victim = Victim(trained.model, tiny_samples(80, first=10_000), trained=trained)
    right = (victim.clean.prediction == victim.test.y) & ~victim.clean.rejected
    assert right.float().mean() > 0.5
    assert (CHECKED in parts) == (not trained.model.fully_differentiable)
    assert (PRIVATE in parts) == ("epsilon" in trained.facts)
    watched = HARD in parts and PRIVATE not in parts  # private training validates nothing
    assert trained.flags == (("unmonitored",) if HARD in parts and not watched else ())
    assert all(("robust_accuracy" in row) == watched for row in trained.history)


def test_order_changes_nothing_where_the_parts_are_different():
    one, other = CHECKED(PRIVATE(plain())), PRIVATE(CHECKED(plain()))
    assert one.description() == other.description()
    assert HARD(PRIVATE(plain())).description() == PRIVATE(HARD(plain())).description()


def test_privacy_counts_only_what_it_trains_on_and_names_the_rest():
    """Detectors are calibrated on a part of their own, disjoint from the private samples."""
    facts = Trainer(0, part=tiny_parts())(CHECKED(PRIVATE(plain())), tiny_samples(320)).facts
    assert facts["private_samples"] == 320
    assert facts["sample_rate"] == 32 / 320
    assert facts["epsilon_valid"] is True
    assert [told.split(",")[0] for told in facts["outside_guarantee"]] == [
        "the training loss of each epoch",
        "the part calibration of the data set",
    ]


def test_calibration_data_never_touch_private_weights():
    """Other calibration samples, same weights: the weights are a function of the private samples alone."""
    recipe, parts = CHECKED(PRIVATE(plain())), (tiny_parts(), lambda _: tiny_samples(100, first=50_000))
    one, other = (Trainer(0, part=part).fit(recipe, tiny_samples(320)).network.state_dict() for part in parts)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_objectives_are_refused():
    with pytest.raises(RequestError, match="expected one objective, got AdversarialLoss and AdversarialLoss"):
        HARD(HARD(plain()))


def test_two_updates_are_refused():
    with pytest.raises(RequestError, match="expected one update, got PrivateDescent and PrivateDescent"):
        PRIVATE(PRIVATE(plain()))


def test_two_wrappers_stack():
    recipe = InputValidation(detectors=("feature-distance",), false_alarm_rate=0.1)(CHECKED(plain()))
    trained = Trainer(0, part=tiny_parts())(recipe, tiny_samples(320))
    x = tiny_samples(200, first=30_000).x
    with torch.no_grad():
        assert (trained.model(x).rejected >= trained.model._inner(x).rejected).all()
