"""HopSkipJump: known distances, its budget, and Foolbox's at equal queries."""

import dataclasses

import pytest
import torch
from peers import imported
from torch import nn

from robustsuite.attacks.evasion.hop_skip_jump import HopSkipJump
from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.streams import Streams

UNIT = (0.0, 1.0)


def anywhere(view_of, net, x, y, norm, *, budget=None, target=None):
    ball = Ball(norm, 1.0, UNIT).everywhere(tuple(x.shape[1:]), UNIT)
    view = view_of(net, x, y, ball, "decision-based", budget=budget, target=target)
    return dataclasses.replace(view, minimum_norm=True)


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1)])
def test_a_linear_boundary_is_reached_at_its_distance(norm, dual, view_of):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(2, 12))
    x = 0.4 + 0.2 * torch.rand(20, 12)
    logits = net(x).detach()
    y, gap = logits.argmax(1), (logits[:, 0] - logits[:, 1]).abs()
    true = gap / (net[1].weight[0] - net[1].weight[1]).norm(dual).detach()
    view = anywhere(view_of, net, x, y, norm)
    moved = HopSkipJump(queries=4000)(view, Streams(0))
    assert bool((net(moved).argmax(1) != y).all())
    ratio = view.ball.distance(moved, x) / true
    assert bool((ratio > 0.999).all())
    assert float(ratio.median()) < 1.05


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_at_least_as_near_as_foolbox_for_the_same_questions(norm, digits, view_of):
    foolbox = imported("foolbox")
    net, x, y = digits["hardened"], digits["x"][:12], digits["y"][:12]
    asked = [0]

    class Counting(nn.Module):
        def forward(self, x):
            asked[0] += len(x)
            return net(x)

    torch.manual_seed(0)
    attack = foolbox.attacks.HopSkipJumpAttack(steps=5, constraint=norm)
    model = foolbox.PyTorchModel(Counting().eval(), bounds=UNIT, device="cpu")
    _, theirs, _ = attack(model, x, y, epsilons=None)
    view = anywhere(view_of, net, x, y, norm)
    ours = HopSkipJump(queries=asked[0] // len(y))(view, Streams(0))
    far = [float(view.ball.distance(moved, x).mean()) for moved in (ours, theirs)]
    assert bool((net(ours).argmax(1) != y).all())
    assert far[0] <= 1.03 * far[1]


@pytest.mark.parametrize("budget", [1, 9, 60, 333])
def test_no_more_questions_than_allowed(budget, digits, view_of):
    net, x, y = digits["plain"], digits["x"][:10], digits["y"][:10]
    view = anywhere(view_of, net, x, y, "l2", budget=budget)
    moved = HopSkipJump(queries=1000, evaluations=20)(view, Streams(0))
    assert max(view.meter.queries.values()) <= budget
    stays = (moved == x).flatten(1).all(1)
    assert bool(((net(moved).argmax(1) != y) | stays).all())


def test_more_questions_bring_it_nearer(digits, view_of):
    net, x, y = digits["plain"], digits["x"][:10], digits["y"][:10]
    far = []
    for queries in (60, 400, 1600):
        view = anywhere(view_of, net, x, y, "l2")
        far.append(float(view.ball.distance(HopSkipJump(queries=queries)(view, Streams(0)), x).mean()))
    assert far[0] > far[1] > far[2]


def test_where_any_point_in_the_ball_will_do_it_stops_there(digits, view_of):
    net, x, y = digits["plain"], digits["x"][:10], digits["y"][:10]
    view = view_of(net, x, y, Ball("l2", 3.0, UNIT), "decision-based")
    moved = HopSkipJump(queries=1000)(view, Streams(0))
    assert bool((net(moved).argmax(1) != y).all())
    assert bool(view.ball.contains(moved, x).all())
    assert view.meter.total_queries < 500 * len(y)


def test_what_cannot_be_asked_is_refused(digits, view_of):
    net, x, y = digits["plain"], digits["x"][:2], digits["y"][:2]
    with pytest.raises(RequestError, match="query_budget=0"):
        HopSkipJump()(view_of(net, x, y, Ball("l2", 1.0, UNIT), "decision-based", budget=0), Streams(0))
    with pytest.raises(RequestError, match="one of linf, l2, got norm='l1'"):
        HopSkipJump()(view_of(net, x, y, Ball("l1", 1.0, UNIT), "decision-based"), Streams(0))
    with pytest.raises(RequestError, match="queries=0"):
        HopSkipJump(queries=0)
