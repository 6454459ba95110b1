"""Along the gradient at clean inputs, and back from the corners of the ball: what deceives there is seen and passed."""

import math

import pytest
import torch
from blobs import Behind, clouds, fitted
from torch import nn

import robustsuite as rs
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Served
from robustsuite.core.samples import Samples
from robustsuite.core.suspicions import Suspicion
from robustsuite.scenarios import Evasion
from robustsuite.scenarios.evasion.sanity.boundary import EXPLAINED, UNEXPLAINED, at_boundaries, crossed_uphill
from robustsuite.scenarios.evasion.sanity.probe import Look
from robustsuite.scenarios.evasion.sanity.soundness import is_sound
from robustsuite.scenarios.victim import Victim

RADIUS = 0.1  # 1.6 of the levels on which the inputs lie
X, Y = clouds(24)
X = (X * 16).round() / 16
NET = fitted(X, Y)
DATA = Samples(X[:40], Y[:40], 4)
MEANS = torch.stack([X[k == Y].mean(0) for k in range(4)])


def tone_curve(net, x):
    """As it is at the levels; elsewhere its slope says nothing of where it leads."""
    return net(x + 0.04 * torch.sin(2 * math.pi * 64 * x))


def repaired(net, x):
    """Values that lie as far from a level as a corner of the ball does are taken back."""
    beyond = (x * 16).remainder(1)
    bump = torch.exp(-(((beyond - 0.6) / 0.1) ** 2)) - torch.exp(-(((beyond - 0.4) / 0.1) ** 2))
    return net(x + 0.1 * bump)


def shell(net, x):
    """The order of the scores, and not too near, and not too far from clean inputs they fall where they should rise."""
    logits = net(x)
    behind = logits.amax(1, keepdim=True) - logits
    off = torch.cdist(x, MEANS).amin(1, keepdim=True)
    within = torch.sigmoid((off - 0.45) / 0.01) * torch.sigmoid((1.2 - off) / 0.01)
    return -((1 - within) * behind + within * torch.exp(-behind / 3) * (behind > 0))


DECEPTIVE = {"tone curve": tone_curve, "repaired": repaired, "shell": shell}


def honest():
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(24, 64), nn.Tanh(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(wide.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(wide(X), Y).backward()
        optimizer.step()
    return {"plain": NET, "smooth": wide.eval(), "hot": Behind(NET, lambda net, x: 40 * net(x))}


def looked_at(network):
    victim = Victim(Served(network.eval()), DATA)
    return Look.at(victim, Evasion(ball=Ball("linf", RADIUS)), victim.correct, 16)


def uphill(network):
    look = looked_at(network)
    return crossed_uphill(look, look.model.surrogate())


def test_a_linear_model_is_crossed_at_its_distance():
    torch.manual_seed(0)
    net = nn.Linear(24, 2).double()
    x = torch.rand(40, 24, dtype=torch.float64) * 0.2 + 0.4
    y = net(x).argmax(1)
    crossing = uphill_of(net, x, y)
    logits, weights = net(crossing.look.x).detach(), net.weight.detach()
    distance = (logits[:, 0] - logits[:, 1]).abs() / (weights[0] - weights[1]).abs().sum()
    moved = (crossing.inside - crossing.look.x).abs().amax(1)
    assert torch.allclose(moved, distance, atol=1e-3)
    assert torch.allclose(crossing.explained(net), torch.ones_like(distance), atol=1e-3)


def uphill_of(net, x, y):
    victim = Victim(Served(net), Samples(x, y, 2))
    return crossed_uphill(Look.at(victim, Evasion(ball=Ball("linf", RADIUS)), victim.correct, 16), net)


@pytest.mark.parametrize("name", honest())
def test_gradients_of_an_honest_model_explain_every_way(name):
    network = honest()[name]
    assert uphill(network).unexplained(network, (0.9, 1.1)) == 0
    assert at_boundaries(looked_at(network), None) is None


@pytest.mark.parametrize("name", DECEPTIVE)
def test_gradients_that_deceive_near_the_boundary_do_not(name):
    network = Behind(NET, DECEPTIVE[name])
    assert bool((network(DATA.x).argmax(1) == NET(DATA.x).argmax(1)).all())
    assert uphill(network).unexplained(network, EXPLAINED) > UNEXPLAINED
    assert "of the ways along the gradient" in str(at_boundaries(looked_at(network), None))


def test_such_a_gradient_settles_nothing():
    """Towards other classes that of the shell explains all; it is no sound gradient, and the bare network's is one."""
    jumping = frozenset({Suspicion.JUMP_AT_BOUNDARY})
    for network, sound in ((NET, True), (Behind(NET, shell), False)):
        look = looked_at(network)
        assert is_sound(look, look.model.surrogate(), jumping) is sound


def verdict(network):
    return rs.evaluate(network, DATA, threat=("linf", RADIUS)).joined[-1]


@pytest.fixture(scope="module")
def bare():
    return verdict(NET).metrics["robust_accuracy"].value


@pytest.mark.parametrize("name", DECEPTIVE)
def test_no_verdict_on_them_is_taken_at_its_word(name, bare):
    """What is more than a tenth above the bare network's is withheld; what is not has been passed by."""
    found = verdict(Behind(NET, DECEPTIVE[name]))
    assert found.status == "inconclusive" or found.metrics["robust_accuracy"].value <= bare + 0.1


@pytest.mark.parametrize("name", ["tone curve", "repaired"])
def test_cascade_comes_back_from_corners(name):
    """At a radius of nearly a level both take back what lies at a corner, and not what lies before it."""
    network = Behind(NET, DECEPTIVE[name])
    moved = rs.perturb("cascade", network, DATA.x, DATA.y, ("linf", 0.06))
    with torch.no_grad():
        left = int((network(moved).argmax(1) == DATA.y).sum())
    assert left <= 30  # of 40; from the surface alone, 38 and more
