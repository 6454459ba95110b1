"""The monitor: what it sees, when it stops a training, what is kept and said, and that it never sees the test."""

import dataclasses

import pytest
import torch
from adversarial_recipes import BALL, brief, objective_of, recipe_of

from robustsuite.attacks.evasion.pgd import PGD
from robustsuite.core.ball import Ball
from robustsuite.core.suspicions import Suspicion
from robustsuite.defenses.adversarial_training import AdversarialLoss
from robustsuite.plugins import defense
from robustsuite.testing import tiny_samples
from robustsuite.training.fit import fit
from robustsuite.training.trained import LEARNT

SHORT = {"attack": {"pgd": {"steps": 1}}}
COLUMN = [(0.3, 0), (0.5, 0), (0.1, 1), (0.2, 0), (0.3, 0)]  # robust accuracy, collapsed or not


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planted(AdversarialLoss):
    """Says of each epoch what is planted, and keeps the weights."""

    kept: list = dataclasses.field(default_factory=list, repr=False)

    def validate(self, network, held_out, step):
        self.kept.append((held_out.ids, network.head.weight.detach().clone()))
        robust, collapsed = COLUMN[len(self.kept) - 1]
        return {"robust_accuracy": robust, "catastrophic_overfitting": float(collapsed), "score": robust}


def planted(**settings):
    recipe = recipe_of("adversarial-training", **SHORT)
    shared = {f.name: getattr(recipe.objective, f.name) for f in dataclasses.fields(recipe.objective)}
    return brief(dataclasses.replace(recipe, objective=Planted(**shared)), epochs=5, **settings)


def test_a_collapse_ends_the_training_and_the_best_weights_are_kept():
    recipe = planted()
    fitted = fit(recipe, tiny_samples(64), 0)
    assert len(fitted.history) == fitted.facts["epochs"] == 3
    assert fitted.flags == ("catastrophic-overfitting",)
    assert fitted.facts["robust_overfitting"] == pytest.approx(0.4)
    kept = recipe.objective.kept
    assert torch.equal(fitted.network.head.weight, kept[1][1])
    assert not torch.equal(kept[1][1], kept[2][1])


def test_a_stopped_training_that_is_resumed_stays_stopped(tmp_path):
    def kill(what, done, of):
        if done == 3:
            raise KeyboardInterrupt

    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        fit(planted(), tiny_samples(64), 0, checkpoint=path, progress=kill)
    assert len(fit(planted(), tiny_samples(64), 0, checkpoint=path).history) == 3


def test_robust_overfitting_is_how_far_the_last_epoch_is_below_the_best():
    rows = [{"robust_accuracy": r, "catastrophic_overfitting": 0.0} for r in (0.2, 0.6, 0.5)]
    facts, flags = objective_of("trades").told(rows)
    assert facts == {"robust_overfitting": pytest.approx(0.1)}
    assert flags == ()
    assert not objective_of("trades").over(rows)


@pytest.mark.parametrize("name", ["adversarial-training", "trades", "mart", "free-training"])
def test_training_that_nobody_watches_is_flagged(name):
    options = {} if name == "free-training" else SHORT
    fitted = fit(brief(recipe_of(name, **options), validation=0.0, epochs=1), tiny_samples(64), 0)
    assert fitted.flags == ("unmonitored",)
    assert set(fitted.history[0]) == {"epoch", "train_loss"}
    assert "robust_overfitting" not in fitted.facts
    assert "validation" in Suspicion("unmonitored").remedy


def test_awp_is_watched_as_what_it_acts_on():
    unseen = fit(brief(defense("awp")(recipe_of("trades", **SHORT)), validation=0.0, epochs=1), tiny_samples(64), 0)
    assert unseen.flags == ("unmonitored",)
    loss = defense("awp")(recipe_of("trades")).objective
    rows = [{"robust_accuracy": r, "catastrophic_overfitting": c} for r, c in COLUMN]
    assert loss.over(rows)
    assert loss.told(rows) == objective_of("trades").told(rows)


@pytest.mark.parametrize(
    ("name", "attack"),
    [("adversarial-training", "noise"), ("trades", "fgsm"), ("mart", "noise")],
)
def test_an_attack_that_finds_nothing_is_flagged(name, attack):
    """Planted: noise, and a step up the divergence of TRADES from where it is flat."""
    fitted = fit(recipe_of(name, Ball("linf", 0.15), attack=attack), tiny_samples(320), 0)
    assert fitted.flags == ("catastrophic-overfitting",)
    assert fitted.history[-1]["robust_accuracy"] < 0.2


def test_selection_sees_neither_the_test_attack_nor_test_samples():
    """The monitor is its own whatever the training attack is, and looks at a share of the training set."""
    for name, attack in (("adversarial-training", "fgsm-rs"), ("trades", "apgd"), ("mart", {"pgd": {"steps": 50}})):
        assert objective_of(name, attack=attack).monitor == PGD(steps=10, step_size=0.25)
    recipe, train = planted(), tiny_samples(64)
    fitted = fit(recipe, train, 0)
    for held_out, _ in recipe.objective.kept:
        seen = set(held_out.tolist())
        assert len(seen) == 6
        assert seen < set(train.ids.tolist())
        assert not seen & set(fitted.scores[LEARNT].tolist())


def test_what_a_model_is_tested_by_is_no_part_of_its_training():
    one, other = (recipe_of("trades", ball, norm="linf", radius=0.1) for ball in (BALL, Ball("l2", 3.0)))
    assert one.training_key() == other.training_key()
