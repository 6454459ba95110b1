"""Sanity checks: what raises a flag, and what must not."""

import pytest
import torch
from torch import nn

from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Served
from robustsuite.core.streams import Streams
from robustsuite.models.output_kind import as_logits
from robustsuite.scenarios import Evasion
from robustsuite.scenarios.evasion.sanity import checks
from robustsuite.scenarios.evasion.sanity.probe import Look
from robustsuite.scenarios.victim import Victim
from robustsuite.testing.victims import tiny_network, tiny_samples

DATA = tiny_samples(60, first=10_000)
BALL = Ball("linf", 0.06)


class Winners(nn.Module):
    """Keeps the greatest activations."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, x):
        kept = x >= x.topk(max(1, int(self.share * x.shape[1])), dim=1).values[:, -1:]
        return x * kept


class Steps(nn.Module):
    """Adds battlements of this height, which no gradient shows."""

    def __init__(self, height):
        super().__init__()
        self.height = height

    def forward(self, x):
        return x + self.height * ((40 * x).floor() % 2).detach()


def roughness(network):
    victim = Victim(Served(network.eval()), DATA)
    look = Look.at(victim, Evasion(ball=BALL), victim.correct)
    start = look.ball.sample(look.x, look.ids, Streams(0))
    return checks._rough(look, start, look.slope(network, start))


def after(part):
    plain = tiny_network()
    return nn.Sequential(plain.features, part, plain.head)


@pytest.mark.parametrize("part", [Winners(0.2), Winners(0.5), Steps(0.5)])
def test_a_loss_that_jumps_is_seen(part):
    assert roughness(after(part)) > 0.5


@pytest.mark.parametrize("part", [nn.Identity(), nn.ReLU(), nn.LeakyReLU(0.1), nn.Hardtanh(0.0, 1.0), nn.Tanh()])
def test_a_loss_with_kinks_is_none(part):
    assert roughness(after(part)) == 0


def test_a_steep_loss_is_none():
    """As that of networks that training against attacks made threshold their inputs."""
    assert roughness(nn.Sequential(Steep(), tiny_network())) == 0


class Steep(nn.Module):
    """Battlements with slopes as wide as a sixth of them, which turn a loss as often as jumps do."""

    def forward(self, x):
        return x + 0.5 * (6 * ((40 * x) % 1 - 0.5).abs() - 1).clamp(0, 1)


def test_a_loss_that_rounding_turns_is_none():
    assert roughness(nn.Sequential(tiny_network(), _Offset())) == 0


class _Offset(nn.Module):
    """Answers beside whose size nothing of the slope is left."""

    def forward(self, x):
        return 1e-4 * x + torch.tensor([3e3, 2e3, 1e3, 0.0])


def test_twice_the_steps_are_tried_on_what_can_be_paid():
    assert checks.affordable(40_000, 2 * 40) == 20  # 20 x 80 passes are 4 % of 40,000
    assert checks.affordable(4_000, 2 * 40) == 8
    assert checks.affordable(400_000, 2 * 40) == 32
    assert checks.affordable(float("inf"), 2.0) == 32


@pytest.mark.parametrize(("scale", "code"), [(1.0, "resolved:probabilities"), (1e4, "probabilities")])
def test_undeclared_probabilities_are_read_by_their_logarithms(scale, code):
    class Answers(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_network()

        def forward(self, x):
            return (scale * self.inner(x)).softmax(1)

    network, state = Answers().eval(), torch.get_rng_state()
    model = as_logits(Served(network), DATA, "cpu")
    assert model.doubts == (code,)
    with torch.no_grad():
        logits, plain = model(DATA.inputs()).logits, network.inner(DATA.inputs())
    assert logits.isfinite().all()
    assert torch.equal(logits.argmax(1), plain.argmax(1))
    if scale == 1.0:
        torch.testing.assert_close(logits, plain.log_softmax(1), atol=1e-4, rtol=1e-4)
    assert torch.equal(torch.get_rng_state(), state)


def test_logits_are_left_as_they_are():
    model = Served(tiny_network())
    assert as_logits(model, DATA, "cpu") is model
    assert model.doubts == ()
