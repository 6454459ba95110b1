"""Defences compose as functions: every pair, in both orders, and the pairs that are refused."""

import dataclasses

import pytest
import torch

from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.streams import Streams
from robustsuite.defenses.adversarial_training import AdversarialTraining
from robustsuite.defenses.dp_sgd import DPSGD
from robustsuite.defenses.input_validation import InputValidation
from robustsuite.plugins.registry import defenses
from robustsuite.scenarios.victim import Victim
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_recipe
from robustsuite.training.cache import Trainer
from robustsuite.training.fit import divide

HARD = AdversarialTraining(attack={"pgd": {"steps": 2, "step_size": 0.75}})
PRIVATE = DPSGD(noise_multiplier=0.5, delta=1e-3)
CHECKED = InputValidation(false_alarm_rate=0.1)


def plain():
    made = tiny_recipe()
    settings = made.training.override({"optimizer": "sgd", "lr": 0.5, "epochs": 3})
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
    trained = Trainer(0)(recipe, tiny_samples(320))
    victim = Victim(trained.model, tiny_samples(80, first=10_000), trained=trained)
    right = (victim.clean.prediction == victim.test.y) & ~victim.clean.rejected
    assert right.float().mean() > 0.5
    assert (CHECKED in parts) == (not trained.model.fully_differentiable)
    assert (PRIVATE in parts) == ("epsilon" in trained.facts)
    assert trained.flags == ()
    assert all(
        ("robust_accuracy" in row) == (HARD in parts and trained.held_out is not None) for row in trained.history
    )


def test_order_changes_nothing_where_the_parts_are_different():
    one, other = CHECKED(PRIVATE(plain())), PRIVATE(CHECKED(plain()))
    assert one.description() == other.description()
    assert HARD(PRIVATE(plain())).description() == PRIVATE(HARD(plain())).description()


def test_privacy_counts_only_what_it_trains_on_and_names_the_rest():
    """Detectors are calibrated on a split of its own, disjoint from the private samples."""
    recipe, samples = CHECKED(PRIVATE(plain())), tiny_samples(320)
    trained = Trainer(0)(recipe, samples)
    private, calibration = divide(recipe, samples, Streams(0).child("training"))
    assert trained.held_out.ids.tolist() == calibration.ids.tolist()
    assert not set(private.ids.tolist()) & set(calibration.ids.tolist())
    assert len(private) + len(calibration) == 320
    facts = trained.facts
    assert facts["private_samples"] == len(private) == 288
    assert facts["sample_rate"] == 32 / 288
    assert facts["epsilon_valid"] is True
    assert facts["outside_guarantee"] == ["10% of the training set, held out for input-validation"]


def test_calibration_data_never_touch_private_weights():
    """Other calibration samples, same weights: the weights are a function of the private samples alone."""
    recipe, samples = CHECKED(PRIVATE(plain())), tiny_samples(320)
    _, held = divide(recipe, samples, Streams(0).child("training"))
    rows = torch.isin(samples.ids, held.ids).nonzero()[:, 0]
    changed = samples.with_rows(rows, 1 - samples.x[rows], samples.y[rows])
    one, other = (Trainer(0).fit(recipe, s).network.state_dict() for s in (samples, changed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_two_objectives_are_refused():
    with pytest.raises(RequestError, match="expected one objective, got AdversarialLoss and AdversarialLoss"):
        HARD(HARD(plain()))


def test_two_updates_are_refused():
    with pytest.raises(RequestError, match="expected one update, got PrivateDescent and PrivateDescent"):
        PRIVATE(PRIVATE(plain()))


def test_two_wrappers_stack():
    recipe = InputValidation(detectors=("feature-distance",), false_alarm_rate=0.1)(CHECKED(plain()))
    trained = Trainer(0)(recipe, tiny_samples(320))
    x = trained.held_out.x
    with torch.no_grad():
        assert (trained.model(x).rejected >= trained.model._inner(x).rejected).all()
