"""On affine models the best attack is known, and the default one breaks whatever it breaks."""

import numpy as np
import pytest
import torch
from affine import at_the_border, greatest_margin, least_of_several, rise

from robustsuite.attacks.evasion.cascade import Cascade
from robustsuite.attacks.evasion.linearised import Planes, furthest
from robustsuite.core.ball import Ball
from robustsuite.core.streams import Streams

UNIT = (0.0, 1.0)
RADII = {"linf": 0.12, "l2": 0.35, "l1": 0.45}
WIDTHS = {2: 20, 3: 5, 10: 40}  # of inputs, for so many classes

norms = pytest.mark.parametrize("norm", RADII)
boxes = pytest.mark.parametrize("bounds", [UNIT, None], ids=["box", "no-box"])


def sloped(k, width, n=4):
    """Inputs, some of them at a bound, and k affine functions for each."""
    random = np.random.default_rng(k + width)
    x = np.where(random.random((n, width)) < 0.3, random.integers(0, 2, (n, width)), random.random((n, width)))
    slopes = random.normal(size=(n, k, width)) * np.exp(random.normal(size=(n, 1, width)))
    return x, random.normal(size=(n, k)), slopes


@norms
@boxes
@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0, 100.0])
def test_the_furthest_point_along_a_gradient_is_the_closed_form(norm, bounds, scale):
    x, _, slopes = sloped(1, 12)
    ball, at = Ball(norm, scale * RADII[norm], bounds), torch.tensor(x)
    moved = furthest(ball, at, torch.tensor(slopes[:, 0]))
    assert ball.contains(moved, at).all()
    gained = (torch.tensor(slopes[:, 0]) * (moved - at)).sum(1)
    wanted = [rise(slope, here, ball) for slope, here in zip(slopes[:, 0], x, strict=True)]
    torch.testing.assert_close(gained, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@norms
@boxes
@pytest.mark.parametrize(("k", "width"), [(2, 5), (9, 6), (4, 40)])
def test_the_least_of_several_is_raised_as_far_as_a_solver_raises_it(norm, bounds, k, width):
    x, values, slopes = sloped(k, width)
    ball, at = Ball(norm, RADII[norm], bounds), torch.tensor(x)
    moved, least = Planes(torch.tensor(values), torch.tensor(slopes)).worst(ball, at)
    assert ball.contains(moved, at).all()
    wanted = [least_of_several(*problem, ball) for problem in zip(values, slopes, x, strict=True)]
    torch.testing.assert_close(least, torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    alone, _ = Planes(torch.tensor(values[:1]), torch.tensor(slopes[:1])).worst(ball, at[:1])
    torch.testing.assert_close(alone, moved[:1], rtol=0, atol=1e-9)  # whatever else is in the batch


@norms
@boxes
@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("classes", WIDTHS)
def test_what_can_be_broken_is_broken(norm, bounds, targeted, classes, view_of):
    """Margins at the optimum are 1e-6 to .1 of the clean ones."""
    ball = Ball(norm, RADII[norm], bounds)
    net, x, y, target = at_the_border(12, classes, WIDTHS[classes], ball, targeted=targeted, seed=classes)
    view = view_of(net, x, y, ball, target=target, classes=classes)
    moved = Cascade()(view, Streams(0))
    answers = net(moved).argmax(1)
    assert ball.contains(moved, x).all()
    assert (answers != y if target is None else answers == target).all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_many_classes_are_no_hindrance(norm, view_of):
    ball = Ball(norm, RADII[norm], UNIT)
    net, x, y, _ = at_the_border(12, 25, 20, ball, targeted=False, seed=0)
    moved = Cascade()(view_of(net, x, y, ball, classes=25), Streams(0))
    assert (net(moved).argmax(1) != y).all()


def test_the_reference_knows_a_case_by_hand():
    weight, bias, x = np.array([[0.0, 0.0], [3.0, 1.0], [0.0, 4.0]]), np.array([3.0, 0.0, 0.0]), np.array([0.0, 0.5])
    # Towards class 1 the first coordinate rises by .4; with d in the second, the margins are d - 1.3 and -.3 - 3 d.
    assert greatest_margin(weight, bias, x, 0, 1, Ball("linf", 0.4, UNIT)) == pytest.approx(-1.05)
    assert greatest_margin(weight, bias, x, 0, None, Ball("l1", 0.4, UNIT)) == pytest.approx(2 + 4 * 0.4 - 3)
    assert greatest_margin(weight, bias, x, 0, None, Ball("l2", 0.6, UNIT)) == pytest.approx(2 + 4 * 0.5 - 3)
