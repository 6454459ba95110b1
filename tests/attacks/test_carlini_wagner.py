"""Carlini and Wagner's attack: closed forms, convergence by default, every range of inputs, and the peers."""

import copy
from dataclasses import replace

import pytest
import torch
from peers import imported
from torch import nn

from robustsuite.attacks.evasion import carlini_wagner
from robustsuite.attacks.evasion.carlini_wagner import CarliniWagner
from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.streams import Streams


class Linear(nn.Module):
    """Two classes whose margin is w.x - offset."""

    def __init__(self, weight, offset=0.0):
        super().__init__()
        self.weight, self.offset = weight, offset

    def forward(self, x):
        assert x.isfinite().all()
        score = x.flatten(1) @ self.weight - self.offset
        return torch.stack([-score / 2, score / 2], dim=1)


class Scaled(nn.Module):
    """A network for [0, 1], asked in other units."""

    def __init__(self, net, bounds, dtype=torch.float32):
        super().__init__()
        self.net, self.low, self.width, self.dtype = net, bounds[0], bounds[1] - bounds[0], dtype

    def forward(self, x):
        return self.net(((x - self.low) / self.width).to(self.dtype)).to(x.dtype)


def played(view_of, net, x, y, bounds=(0.0, 1.0), target=None, classes=10, **options):
    """The nearest adversarial inputs, how far they are, and the passes of a sample."""
    ball = Ball("l2", 1.0).everywhere(tuple(x.shape[1:]), bounds)
    view = replace(view_of(net, x, y, ball, target=target, classes=classes), minimum_norm=True)
    moved = CarliniWagner(**options)(view, Streams(0))
    assert moved.dtype == x.dtype
    assert float(moved.min()) >= bounds[0]
    assert float(moved.max()) <= bounds[1]
    return moved, ball.distance(moved, x), (view.meter.forwards + view.meter.backwards) / len(y)


def plane(dtype=torch.float64, width=60):
    weight = Streams(0).normal(torch.tensor([0]), (width,), dtype=dtype)[0]
    x = Streams(1).normal(torch.arange(12), (width,), dtype=dtype)
    return Linear(weight), x, (x @ weight > 0).long()


def broken(net, moved, y):
    with torch.no_grad():
        return net(moved).argmax(1) != y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_plane_it_finds_the_distance(view_of, dtype):
    net, x, y = plane(dtype)
    moved, distance, _ = played(view_of, net, x, y, bounds=(-100.0, 100.0), classes=2)
    wanted = ((x @ net.weight).abs() / net.weight.norm()).double()
    assert broken(net, moved, y).all()
    assert ((distance / wanted - 1).abs() < 0.01).all()


def test_inputs_without_bounds(view_of):
    net, x, y = plane()
    view = replace(view_of(net, x, y, Ball("l2", 1e3), classes=2), minimum_norm=True)
    distance = view.ball.distance(CarliniWagner()(view, Streams(0)), x)
    torch.testing.assert_close(distance, (x @ net.weight).abs() / net.weight.norm(), rtol=0.01, atol=0)


def test_inputs_at_their_bounds_leave_them_and_closed_ones_stay(view_of):
    """Half of the inputs start at the bound that they must leave, half at one that they cannot pass."""
    weight = torch.tensor([1.0, -1.0] * 20, dtype=torch.float64)
    x = torch.zeros(1, 40, dtype=torch.float64)
    moved, distance, _ = played(view_of, Linear(weight, 2.0), x, torch.zeros(1, dtype=torch.int64), classes=2)
    assert float(distance) == pytest.approx(2 / 20**0.5, rel=0.01)  # 20 inputs by a tenth each
    assert (moved[0, 1::2] == 0).all()


def test_a_planted_fault_is_caught(view_of, monkeypatch):
    """A step down the margin, in place of up, finds nothing."""
    monkeypatch.setattr(carlini_wagner.mn, "unit", lambda directions: -directions)
    net, x, y = plane()
    moved, _, _ = played(view_of, net, x, y, bounds=(-100.0, 100.0), classes=2)
    assert not broken(net, moved, y).any()


def test_the_constant_decides_and_is_found(view_of):
    """One constant that is too small fails; the search recovers from one a thousand times off, either way."""
    net, x, y = plane()
    bounds, wanted = (-100.0, 100.0), (x @ net.weight).abs() / net.weight.norm()
    moved, _, _ = played(view_of, net, x, y, bounds=bounds, classes=2, first_constant=1e-3)
    assert broken(net, moved, y).all()
    for first in (1e-3, 1e3):
        _, distance, _ = played(view_of, net, x, y, bounds=bounds, classes=2, first_constant=first, rounds=6)
        assert ((distance / wanted - 1).abs() < 0.01).all(), first


def test_a_digit_network_falls_everywhere_and_near(view_of, digits):
    net, x, y = digits["plain"], digits["x"][:30], digits["y"][:30]
    moved, distance, passes = played(view_of, net, x, y)
    assert broken(net, moved, y).all()
    assert passes < 2 * (3 * 75 + 4)
    _, patient, _ = played(view_of, net, x, y, steps=150, rounds=4)
    assert float(distance.mean()) < 1.01 * float(patient.mean())


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 255.0)])
def test_units_do_not_matter(view_of, digits, bounds):
    x, y, width = digits["x"][:20], digits["y"][:20], bounds[1] - bounds[0]
    _, distance, _ = played(view_of, digits["plain"], x, y)
    _, scaled, _ = played(view_of, Scaled(digits["plain"], bounds), bounds[0] + width * x, y, bounds)
    assert float(scaled.mean()) == pytest.approx(width * float(distance.mean()), rel=0.01)


def test_the_scale_of_the_logits_does_not_matter(view_of, digits):
    x, y = digits["x"][:8], digits["y"][:8]
    _, distance, _ = played(view_of, digits["plain"], x, y)
    for scale in (1e-6, 1e3):
        _, scaled, _ = played(view_of, nn.Sequential(digits["plain"], Times(scale)), x, y)
        assert float(scaled.mean()) == pytest.approx(float(distance.mean()), rel=0.01)


class Times(nn.Module):
    """Multiply."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_a_target_is_reached_and_is_farther(view_of, digits):
    net, x, y = digits["plain"], digits["x"][:20], digits["y"][:20]
    target = (y + 1) % 10
    moved, distance, _ = played(view_of, net, x, y, target=target)
    assert (net(moved).argmax(1) == target).all()
    _, untargeted, _ = played(view_of, net, x, y)
    assert float(distance.mean()) > float(untargeted.mean())


def test_a_sample_does_not_see_its_batch(view_of, digits):
    """In float64, where the last bits, which do see the batch, cannot grow over the steps to anything that shows."""
    net, x, y = copy.deepcopy(digits["plain"]).double(), digits["x"][:6].double(), digits["y"][:6]
    _, together, _ = played(view_of, net, x, y, steps=30)
    alone = torch.cat([played(view_of, net, x[i : i + 1], y[i : i + 1], steps=30)[1] for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0)


def test_where_any_success_in_the_ball_will_do_it_stops_there(view_of, digits):
    net, x, y = digits["plain"], digits["x"][:20], digits["y"][:20]
    _, distance, passes = played(view_of, net, x, y)
    view = view_of(net, x, y, Ball("l2", 2 * float(distance.max()), (0.0, 1.0)))
    moved = CarliniWagner()(view, Streams(0))
    assert broken(net, moved, y).all()
    assert (view.meter.forwards + view.meter.backwards) / 20 < passes / 4


def test_a_network_without_slope_ends_soon_and_stands(view_of):
    """Rounds that get nowhere are cut short."""
    net, x, y = plane()
    flat = Linear(0 * net.weight, -1.0)
    moved, _, passes = played(view_of, flat, x, torch.ones_like(y), bounds=(-100.0, 100.0), classes=2)
    assert torch.equal(moved, x)
    assert passes < 2 * 9 * 25


def test_radius_zero_and_other_norms(view_of, digits):
    x, y = digits["x"][:4], digits["y"][:4]
    view = view_of(digits["plain"], x, y, Ball("l2", 0.0, (0.0, 1.0)))
    assert torch.equal(CarliniWagner()(view, Streams(0)), x)
    with pytest.raises(RequestError, match="linf"):
        CarliniWagner()(view_of(digits["plain"], x, y, Ball("linf", 0.1, (0.0, 1.0))), Streams(0))
    with pytest.raises(RequestError, match="first_constant"):
        CarliniWagner(first_constant=0.0)


# Settings with which the peers converge here; by default they leave samples standing or need minutes.
RATE, STEPS, ROUNDS = 0.05, 100, 5


def foolbox_distance(net, x, y):
    foolbox = imported("foolbox")
    options = {"stepsize": RATE, "steps": STEPS, "binary_search_steps": ROUNDS, "initial_const": 1.0}
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    return foolbox.attacks.L2CarliniWagnerAttack(**options)(model, x, y, epsilons=None)[1]


def adv_lib_distance(net, x, y):
    peer = imported("adv_lib.attacks", "pip install adv-lib")
    options = {"learning_rate": RATE, "max_iterations": STEPS, "binary_search_steps": ROUNDS, "initial_const": 1.0}
    return peer.carlini_wagner_l2(net, x, y, **options)


@pytest.mark.parametrize("peer", [foolbox_distance, adv_lib_distance])
@pytest.mark.parametrize("which", ["plain", "hardened"])
def test_it_is_as_near_as_the_peers(view_of, digits, which, peer):
    net, x, y = digits[which], digits["x"][:24], digits["y"][:24]
    theirs = peer(net, x, y)
    _, distance, _ = played(view_of, net, x, y)
    fell = broken(net, theirs, y)
    assert float(fell.double().mean()) > 0.9
    reach = Ball("l2", 1.0).distance(theirs, x)
    assert float(distance[fell].mean()) < 1.01 * float(reach[fell].mean())
