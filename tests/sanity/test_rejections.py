"""Joint loss against what rejects: the right comparison is read off, and brought down beside the margin."""

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.deployed import Deployed, Outputs
from robustsuite.core.samples import Samples
from robustsuite.scenarios import Evasion
from robustsuite.scenarios.evasion.sanity.detectors import joint
from robustsuite.scenarios.evasion.sanity.probe import Look
from robustsuite.scenarios.victim import Victim

BALL = rs.Ball("linf", 0.2)
LIMIT, BOUNDARY = 0.55, 1.11


class Sum(nn.Module):
    """Class 1 where the first two inputs add up to more than a boundary."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 1.0, 0.0]))

    def forward(self, x):
        score = x @ self.weight.to(x) - BOUNDARY
        return torch.stack([-score, score], dim=1)


class Guarded(Deployed):
    """Rejects where the first input, or its negative, is beyond a limit; compares something else besides."""

    fully_differentiable = False

    def __init__(self, network, sign=1.0, limit=LIMIT):
        self._network, self._sign, self._limit = network, sign, limit

    @property
    def network(self):
        return self._network

    def __call__(self, x):
        logits = self._network(x)
        decoy = x[:, 2] > 0.5  # decides nothing
        high = x[:, 0] > self._limit if self._sign > 0 else ~(x[:, 0] <= self._limit)
        return Outputs(logits + 0 * decoy[:, None], high)


class Hidden(Guarded):
    """The same, decided where no comparison of tensors is seen."""

    def __call__(self, x):
        logits = self._network(x)
        return Outputs(logits, torch.tensor([float(value) > self._limit for value in x[:, 0]]))


@pytest.fixture
def samples():
    """Inputs of class 0 that the guard accepts; a step of the whole radius along the margin is rejected."""
    generator = torch.Generator().manual_seed(0)
    first = 0.5 + 0.02 * torch.rand(120, 1, generator=generator)
    rest = torch.cat([torch.full((120, 1), 0.4), torch.rand(120, 1, generator=generator)], dim=1)
    return Samples(torch.cat([first, rest], dim=1), torch.zeros(120, dtype=torch.int64), 2)


def look_at(model, samples):
    victim = Victim(model, samples)
    return Look.at(victim, Evasion(ball=BALL), victim.correct)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_column_is_positive_where_the_input_is_rejected(sign, samples):
    model = Guarded(Sum(), sign)
    found = joint(look_at(model, samples), width=0.1)
    assert found is not None
    assert len(found.chosen) == 1
    x = torch.rand(50, 3, generator=torch.Generator().manual_seed(1))
    answer = found(x)
    assert answer.shape == (50, 3)
    torch.testing.assert_close(answer[:, :2], model.network(x))
    assert torch.equal(answer[:, 2] > 0, x[:, 0] > LIMIT)
    assert float(torch.corrcoef(torch.stack([answer[:, 2], x[:, 0] - LIMIT]))[0, 1]) == pytest.approx(1, abs=1e-5)


def test_its_gradient_is_that_of_the_threshold_alone(samples):
    found = joint(look_at(Guarded(Sum()), samples), width=0.1)
    leaf = torch.rand(5, 3).requires_grad_(True)
    (slope,) = torch.autograd.grad(found(leaf)[:, 2].sum(), leaf)
    assert bool((slope[:, 0] > 0).all())
    assert float(slope[:, 1:].abs().max()) == 0


def test_where_nothing_is_rejected_there_is_nothing_to_bring_down(samples):
    assert joint(look_at(Guarded(Sum(), limit=5.0), samples), width=0.1) is None


def test_the_default_evaluation_gets_past_what_it_was_not_told_of(samples):
    record = rs.evaluate(Guarded(Sum()), samples, "pgd(steps=10, random_start=False)", BALL).records[-1]
    values = {name: metric.value for name, metric in record.metrics.items()}
    assert values["robust_accuracy"] == 1
    assert values["robust_accuracy_followed_up"] == 0
    assert record.status == "ok"
    assert "resolved:not-adaptive" in record.flags
    assert record.review["played"][-1]["through"] == "model and detectors jointly"


def test_a_detector_that_nobody_sees_through_leaves_no_verdict(samples):
    record = rs.evaluate(Hidden(Sum()), samples, "pgd(steps=10, random_start=False)", BALL).records[-1]
    assert record.metrics["robust_accuracy_followed_up"].value > 0.02
    assert record.status == "inconclusive"
    assert "not-adaptive" in record.flags
    assert "not-adaptive" in record.message.partition("unresolved: ")[2]
