"""Honest models that must not be doubted, beside their like that must be."""

import copy

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.testing.victims import tiny_network, tiny_samples

DATA = tiny_samples(60, first=10_000)
BALL = rs.Ball("linf", 0.06)


class After(nn.Module):
    """The tiny network, and what becomes of its answer."""

    def __init__(self, after):
        super().__init__()
        self.inner, self.after = copy.deepcopy(tiny_network()), after

    def forward(self, x):
        return self.after(self.inner(x))


def judged(model, attack=None, data=DATA, ball=BALL):
    return rs.evaluate(model.eval(), data, attack, ball).records[-1]


def constant(bias=(1.0, 0.5, 0.0, -1.0), weight=0.0):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        net[1].weight.mul_(weight)
        net[1].bias.copy_(torch.tensor(bias))
    return net


def dead():
    """Collapsed in training: no unit is alive, and its answer is a bias."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        net[1].bias.fill_(-100.0)
    return net


@pytest.mark.parametrize(
    "model", [constant(), constant((100.0, 0.0, 0.0, 0.0)), dead(), constant((30.0, 0.0, 0.0, 0.0), 0.1)]
)
@pytest.mark.parametrize("attack", [None, "pgd(steps=10)"])
def test_a_constant_classifier_is_robust_on_what_it_gets_right(model, attack):
    record = judged(model, attack)
    assert record.status == "ok"
    assert set(record.flags) == {"near-chance", "few-samples"}
    assert record.metrics["robust_accuracy"].value == record.metrics["clean_accuracy"].value == 0.25
    assert not any(step.get("broke") for step in record.review.get("played", ()))


def test_hard_labels_of_one_class_are_no_constant_classifier():
    """Every clean answer is the same here too, and so is every gradient; but not every answer."""
    model = After(lambda z: nn.functional.one_hot(z.argmax(1), 4).float())
    whole, one = judged(model, "pgd(steps=5)"), judged(model, "pgd(steps=5)", DATA.take((DATA.y == 2).nonzero()[:, 0]))
    for record in (whole, one):
        assert {"zero-gradients", "resolved:zero-gradients"} & set(record.flags)
        assert record.metrics["robust_accuracy_followed_up"].value < record.metrics["robust_accuracy"].value


@pytest.mark.parametrize("attack", ["cascade(rounds=0)", "pgd(steps=10)"])
def test_a_saturated_loss_is_no_missing_gradient(attack):
    """The cross-entropy is flat where one logit leads by 1000; the margin is not, and nothing else is tried."""
    model = After(lambda z: 1000 * z)
    data, ball = DATA.take(slice(0, 24)), rs.Ball("linf", 0.03)
    record, twin = judged(model, attack, data, ball), judged(model.inner, "cascade(rounds=0)", data, ball)
    assert "resolved:saturated-loss" in record.flags
    assert not {"zero-gradients", "resolved:zero-gradients"} & set(record.flags)
    assert record.status == "ok"
    name = "robust_accuracy_followed_up"
    assert 0.2 < twin.metrics[name].value == record.metrics[name].value
    assert {step["attack"] for step in record.review["played"]} <= {"sanity checks", "cascade", "bpda"}
    assert sum(step["attack"] != "sanity checks" for step in record.review["played"]) == 1


class Purified(nn.Module):
    """Moves each input to where the network is surer, by `torch.func`, whole or row by row."""

    def __init__(self, by_row):
        super().__init__()
        self.inner, self.by_row = copy.deepcopy(tiny_network()), by_row

    def forward(self, x):
        def sure(z):
            return self.inner(z[None] if self.by_row else z).logsumexp(1).sum()

        slope = torch.func.vmap(torch.func.grad(sure))(x) if self.by_row else torch.func.grad(sure)(x)
        return self.inner((x + 0.01 * slope.sign()).clamp(0, 1).detach())


@pytest.mark.parametrize("by_row", [False, True], ids=["grad", "vmap"])
def test_gradients_by_torch_func_inside_a_model_are_seen_and_passed_by(by_row):
    model, few = Purified(by_row), DATA.take(slice(0, 8))
    record, twin = judged(model, "pgd(steps=5)", few), judged(model.inner, "pgd(steps=5)", few)
    assert "resolved:gradients-in-forward" in record.flags
    assert record.status == "ok"
    name = "robust_accuracy_followed_up"
    assert record.metrics[name].value <= twin.metrics[name].value + 0.13 < record.metrics["robust_accuracy"].value
