"""Square: its schedule and moves by hand, its budget, what it finds beside the peers, and masked gradients."""

import pytest
import torch
from peers import imported
from torch import nn

from robustsuite.attacks.evasion.square import Moves, Square, share
from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.streams import Streams

UNIT = (0.0, 1.0)
RADII = {"linf": 0.15, "l2": 1.0, "l1": 5.0}


def test_windows_are_halved_where_the_paper_halves_them():
    steps = [0, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001, 6001, 8001, 9999]
    halvings = [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert [share(step, 10_000, 0.8) for step in steps] == [0.8 / 2**k for k in halvings]
    assert share(11, 5000, 0.8, rescaled=False) == 0.4
    assert share(11, 5000, 0.8) == 0.4
    assert share(3000, 5000, 0.8, rescaled=False) == 0.8 / 2**6


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 9, 5), (8, 8), (17,), (1,)])
@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("bounds", [UNIT, None])
def test_every_start_and_proposal_lies_in_the_ball(shape, norm, bounds):
    ids = torch.arange(6)
    x = Streams(1).uniform(ids, shape)
    ball = Ball(norm, RADII[norm], bounds)
    moves = Moves(ball, shape, Streams(0))
    best = moves.start(x, ids)
    assert bool(ball.contains(best, x).all())
    for step in range(12):
        new = moves.propose(best, x, ids, step, 0.8 / 2**step)
        assert bool(ball.contains(new, x).all())
        best = new


def test_linf_moves_one_window_to_the_rim_and_always_changes_something():
    ids = torch.arange(40)
    x = torch.full((40, 2, 8, 8), 0.5)
    moves = Moves(Ball("linf", 0.1, UNIT), (2, 8, 8), Streams(0))
    best = moves.start(x, ids)
    assert torch.allclose((best - x).abs(), torch.full_like(x, 0.1))
    assert bool((best[:, :, :1] == best).all())  # stripes: each column of a channel has one sign
    for step in range(10):
        new = moves.propose(best, x, ids, step, 1 / 16)
        changed = (new != best).flatten(1).sum(1)
        assert bool((changed > 0).all())
        assert int(changed.max()) <= 2 * 4
        best = new


@pytest.mark.parametrize("norm", RADII)
def test_draws_belong_to_samples(norm):
    ids = torch.arange(20) + 7
    x = Streams(2).uniform(ids, (1, 8, 8))
    moves = Moves(Ball(norm, RADII[norm], UNIT), (1, 8, 8), Streams(0))
    start = moves.start(x, ids)
    assert torch.equal(moves.start(x[5:9], ids[5:9]), start[5:9])
    new = moves.propose(start, x, ids, 3, 0.2)
    assert torch.equal(moves.propose(start[5:9], x[5:9], ids[5:9], 3, 0.2), new[5:9])
    assert not torch.equal(moves.propose(start[:1], x[:1], ids[1:2], 3, 0.2), new[:1])


@pytest.mark.parametrize("budget", [1, 7, None])
def test_no_more_questions_than_allowed(budget, digits, view_of):
    x, y = digits["x"][:20], digits["y"][:20]
    view = view_of(digits["hardened"], x, y, Ball("linf", 0.1, UNIT), "score-based", budget=budget)
    moved = Square(queries=12)(view, Streams(0))
    assert max(view.meter.queries.values()) <= min(budget or 12, 12)
    assert view.meter.forwards == view.meter.total_queries
    assert not torch.equal(moved, x)


def test_a_budget_of_nothing_is_refused(digits, view_of):
    x, y = digits["x"][:2], digits["y"][:2]
    view = view_of(digits["plain"], x, y, Ball("linf", 0.1, UNIT), "score-based", budget=0)
    with pytest.raises(RequestError, match="at least 1 query per sample, got query_budget=0"):
        Square()(view, Streams(0))
    with pytest.raises(RequestError, match="queries=0"):
        Square(queries=0)
    assert view.meter.forwards == 0


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_as_strong_as_autoattacks_own(norm, digits, view_of):
    peer = imported("pyautoattack.square")
    net, x, y = digits["hardened"], digits["x"][:150], digits["y"][:150]
    options = {"norm": norm.capitalize(), "eps": RADII[norm], "n_queries": 100, "seed": 0, "device": "cpu"}
    theirs = int((net(peer.SquareAttack(net, **options).perturb(x, y)).argmax(1) == y).sum())
    view = view_of(net, x, y, Ball(norm, RADII[norm], UNIT), "score-based")
    ours = int((net(Square(queries=100)(view, Streams(0))).argmax(1) == y).sum())
    assert 0 < ours <= theirs + 1


def test_it_finds_targets(digits, view_of):
    net, x, y = digits["plain"], digits["x"][:60], digits["y"][:60]
    target = (y + 1) % 10
    view = view_of(net, x, y, Ball("linf", 0.4, UNIT), "score-based", target=target)
    hit = (net(Square(queries=150)(view, Streams(0))).argmax(1) == target).double().mean()
    assert float(hit) > 0.5


class Hidden(nn.Module):
    """Gradients are zero, and cross-entropy is flat."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return 10 * self.net(torch.round(x * 16) / 16)


def test_hidden_gradients_do_not_help(digits, view_of):
    net, x, y = digits["plain"], digits["x"][:50], digits["y"][:50]
    left = []
    for module in (net, Hidden(net)):
        view = view_of(module, x, y, Ball("linf", 0.2, UNIT), "score-based")
        left.append(float((module(Square(queries=150)(view, Streams(0))).argmax(1) == y).double().mean()))
    assert left[1] <= left[0] + 0.06
