"""Adversarial training: the inner attack leaves no trace, climbs to the end, and costs and buys what it must."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from adversarial_recipes import BALL, Passes, objective_of, step_of
from torch import nn

from robustsuite.attacks.evasion.fgsm import FGSM
from robustsuite.attacks.evasion.pgd import PGD
from robustsuite.core.ball import Ball
from robustsuite.core.canonical import canonical_json
from robustsuite.core.errors import RequestError
from robustsuite.core.samples import Samples
from robustsuite.defenses.adversarial_training import AdversarialTraining
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_recipe
from robustsuite.training.fit import fit


def objective(threat=BALL, **options):
    return objective_of("adversarial-training", threat, **options)


def test_the_inner_attack_leaves_no_trace():
    samples, network = tiny_samples(16), Passes()
    network.train()
    marker = torch.ones_like(network.head.weight)
    network.head.weight.grad = marker
    losses = objective()(network, samples.batch(slice(None)), step_of(samples))
    assert losses.shape == (16,)
    assert all(part.training for part in network.modules())
    assert network.head.weight.grad is marker
    assert torch.equal(marker, torch.ones_like(marker))
    assert all(p.requires_grad for p in network.parameters())
    # The running mean has moved once, by the one training pass.
    moved = network.seen[-1][1]
    norm = network.features[1]
    mean = network.features[0](moved * 2 - 1).mean((0, 2, 3))
    assert torch.allclose(norm.running_mean, 0.1 * mean, atol=1e-6)
    assert int(norm.num_batches_tracked) == 1


@pytest.mark.parametrize(("attack", "inner"), [("fgsm-rs", 1), ({"pgd": {"steps": 7}}, 8)])
def test_it_costs_exactly_its_passes(attack, inner):
    """One forward and backward pass a step, one forward for PGD's last iterate, one pass to learn from."""
    samples, network = tiny_samples(16), Passes()
    network.train()
    objective(attack=attack)(network, samples.batch(slice(None)), step_of(samples))
    assert [mode for mode, _ in network.seen] == [False] * inner + [True]
    assert all(len(x) == 16 for _, x in network.seen)


def test_on_a_linear_model_the_loss_is_the_closed_form():
    """The worst logit difference in the ball is that of the input less 2 r times the dual norm of the weights' gap."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    x, y = torch.rand(9, 6), torch.randint(0, 2, (9,))
    samples = Samples(x, y, 2, (-10.0, 10.0))
    found = objective(Ball("linf", 0.07), attack="fgsm")(network, samples.batch(slice(None)), step_of(samples))
    logits, w = network(x), network[1].weight
    margin = logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]
    worst = margin - 0.07 * (w[1] - w[0]).abs().sum()
    assert torch.allclose(found, F.softplus(-worst), atol=1e-5)


def test_a_mistake_on_the_way_is_no_reason_to_stop():
    """In a game a misclassified sample stays where it is; in training it is pushed on to the greatest loss."""
    samples, network = tiny_samples(16), Passes().eval()
    wrong = network(samples.x).argmax(1) != samples.y
    assert wrong.any()
    for attack in ("fgsm", {"pgd": {"steps": 5}}):
        clean = F.cross_entropy(network(samples.x), samples.y, reduction="none")
        hard = objective(attack=attack)(network, samples.batch(slice(None)), step_of(samples))
        assert (hard[wrong] > clean[wrong] + 0.01).all()


def test_radius_grows_over_the_warmup():
    samples, network = tiny_samples(16), Passes()
    hard = objective(attack={"fgsm": {}}, warmup=3)
    for epoch, share in enumerate([0.25, 0.5, 0.75, 1.0, 1.0]):
        network.seen.clear()
        hard(network.train(), samples.batch(slice(None)), step_of(samples, epoch))
        assert float((network.seen[-1][1] - samples.x).abs().max()) == pytest.approx(0.1 * share, rel=1e-5)


def test_adversarial_inputs_stay_in_bounds():
    samples, network = tiny_samples(16), Passes()
    objective(Ball("linf", 0.9), attack="fgsm-rs")(network.train(), samples.batch(slice(None)), step_of(samples))
    assert network.seen[-1][1].min() >= 0
    assert network.seen[-1][1].max() <= 1


def robust_accuracy(network, ball, test):
    found = objective(ball, attack={"pgd": {"steps": 20}})
    return found._withstood(PGD(steps=20), network, test.batch(slice(None)), step_of(test))


@pytest.mark.parametrize("attack", [None, "fgsm-rs"])
def test_it_buys_robustness(attack):
    train, test = tiny_samples(320), tiny_samples(200, first=10_000)
    plain = dataclasses.replace(tiny_recipe(), threat=Ball("linf", 0.05))
    undefended = fit(plain, train, 0)
    defended = fit(AdversarialTraining(attack=attack)(plain), train, 0)
    before, after = (robust_accuracy(f.network, plain.threat, test) for f in (undefended, defended))
    assert after > before + 0.1
    last = defended.history[-1]
    assert set(last) >= {"robust_accuracy", "catastrophic_overfitting", "validation_accuracy"}
    assert "catastrophic-overfitting" not in defended.flags


def test_withstanding_only_the_training_attack_is_flagged():
    """Planted: noise as the training attack is withstood, and PGD is not."""
    plain = dataclasses.replace(tiny_recipe(), threat=Ball("linf", 0.15))
    fitted = fit(AdversarialTraining(attack="noise")(plain), tiny_samples(320), 0)
    assert fitted.flags == ("catastrophic-overfitting",)
    assert fitted.history[-1]["catastrophic_overfitting"] == 1.0


@pytest.mark.parametrize(
    ("marks", "flagged"),
    [
        ([0, 0, 0], False),
        ([1, 0, 0], False),
        ([1, 1, 1], True),
        ([0, 0, 1], True),
        ([1, 0, 1], True),
        ([0, 1, 0], True),
    ],
)
def test_a_fall_or_no_recovery_is_flagged(marks, flagged):
    history = [{"robust_accuracy": 0.5, "catastrophic_overfitting": float(mark)} for mark in marks]
    assert ("catastrophic-overfitting" in objective().told(history)[1]) == flagged


def test_the_fast_start_ignores_the_input_bounds_and_the_result_does_not():
    """On a black image a start within the bounds would leave every pixel at 0 or at the full radius."""
    network = Passes()
    samples = Samples(torch.zeros(16, 1, 8, 8), torch.arange(16) % 4, 4)
    objective(Ball("linf", 0.3), attack="fgsm-rs")(network.train(), samples.batch(slice(None)), step_of(samples))
    (_, start), (_, moved) = network.seen
    assert start.min() < -0.2
    assert moved.min() >= 0
    assert moved.max() <= 0.3 + 1e-6
    between = (moved > 0.01) & (moved < 0.29)
    assert between.float().mean() > 0.1


def test_robust_accuracy_picks_the_epoch_and_clean_accuracy_breaks_ties():
    samples, network = tiny_samples(40), Passes().eval()
    figures = objective().validate(network, samples, step_of(samples))
    assert figures["score"] == pytest.approx(figures["robust_accuracy"] + 1e-3 * figures["validation_accuracy"])


def test_monitoring_looks_at_all_classes_of_sorted_data():
    order = tiny_samples(1200).y.argsort()
    samples, network = tiny_samples(1200).take(order), Passes().eval()
    objective().validate(network, samples, step_of(samples))
    attacked = [x for _, x in network.seen if len(x) == 256]
    assert attacked
    rows = torch.linspace(0, 1199, 256).long()
    assert torch.bincount(samples.y[rows]).tolist() == [64, 64, 64, 64]


@pytest.mark.parametrize("precision", ["64", "bf16-mixed"])
def test_precisions(precision):
    plain = tiny_recipe()
    plain = dataclasses.replace(plain, training=plain.training.override({"precision": precision, "epochs": 2}))
    fitted = fit(AdversarialTraining(attack={"pgd": {"steps": 2}})(plain), tiny_samples(128), 0)
    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"]


def test_fast_is_the_registered_fgsm_with_a_random_start():
    assert objective(attack="fgsm-rs").attack == FGSM(step_size=1.25, random_start=True)
    assert objective().attack == PGD(steps=10, step_size=0.25)
    assert objective(attack={"pgd": {"steps": 3}}).attack == PGD(steps=3)


def test_ball_comes_from_options_before_the_threat():
    assert objective(norm="l2", radius="1/2").ball == Ball("l2", 0.5)
    assert objective(radius=0.2).ball == Ball("linf", 0.2)
    assert objective(None, norm="l1", radius=3.0).ball == Ball("l1", 3.0)


def test_the_recipe_names_attack_and_ball():
    defended = AdversarialTraining(attack={"pgd": {"steps": 3}})(tiny_recipe())
    described = canonical_json(defended.description())
    assert '"steps":3' in described
    assert defended.training_key() != AdversarialTraining(attack={"pgd": {"steps": 4}})(tiny_recipe()).training_key()
    canonical_json(AdversarialTraining(attack={"pgd": {"steps": 3}}))


@pytest.mark.parametrize(
    ("options", "threat", "message"),
    [
        ({}, None, "expected a ball to train in"),
        ({"norm": "l2"}, None, "expected a ball to train in"),
        ({"attack": "pdg"}, Ball("linf", 0.1), "did you mean pgd"),
        ({"attack": "badnets"}, Ball("linf", 0.1), "expected a white-box evasion attack, got attack='badnets'"),
        ({"attack": {"pgd": {"step": 3}}}, Ball("linf", 0.1), "did you mean 'steps'"),
        ({"attack": {"pgd": {}, "fgsm": {}}}, Ball("linf", 0.1), "expected one attack"),
        ({"attack": {"pgd": 10}}, Ball("linf", 0.1), "expected a mapping of options"),
        ({"warmup": -1}, Ball("linf", 0.1), "warmup=-1"),
        ({"norm": "l3", "radius": 1.0}, None, "norm='l3'"),
        ({"norm": "l2", "radius": "-1/2"}, None, "radius=-0.5"),
    ],
)
def test_impossible_requests(options, threat, message):
    with pytest.raises(RequestError, match=message):
        objective(threat, **options)
