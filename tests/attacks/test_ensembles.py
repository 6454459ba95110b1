"""AutoAttack and cascade: what is played for which model, their authors' code, and at what cost."""

from dataclasses import replace

import pytest
import torch
from peers import imported
from torch import nn

from robustsuite.access.meter import Meter
from robustsuite.access.views import make_view
from robustsuite.attacks.evasion import cascade
from robustsuite.attacks.evasion.autoattack import AutoAttack, Expected
from robustsuite.attacks.evasion.cascade import Cascade
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Served
from robustsuite.core.errors import RequestError
from robustsuite.core.streams import Streams

UNIT = (0.0, 1.0)
RADII = {"linf": 0.12, "l2": 0.8, "l1": 2.0}


def played(attack, view):
    attack(view, Streams(0))
    return next(iter(view.meter.notes))


def left_robust(net, moved, y):
    with torch.no_grad():
        return net(moved).argmax(1) == y


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (2, "apgd-ce, apgd-t (1 targets, margin), fab-t (1 targets), square (3 queries)"),
        (3, "apgd-ce, apgd-t (2 targets, margin), fab-t (2 targets), square (3 queries)"),
        (5, "apgd-ce, apgd-t (4 targets, dlr), fab-t (4 targets), square (3 queries)"),
        (200, "apgd-ce, apgd-t (9 targets, dlr), fab-t (9 targets), square (3 queries)"),
        (1000, "apgd-ce, apgd-t (9 targets, dlr), fab-t (9 targets), square (3 queries)"),
    ],
)
def test_the_standard_ensemble_fits_the_classes_and_is_told(classes, told, fresh_network, view_of):
    net = fresh_network(classes).eval()
    x = Streams(3).uniform(torch.arange(6), (1, 8, 8))
    view = view_of(net, x, net(x).argmax(1), Ball("linf", 0.05, UNIT), classes=classes)
    assert played(AutoAttack(steps=2, queries=3), view) == f"autoattack standard: {told}"


def test_other_versions_norms_and_goals(digits, view_of):
    net, x, y = digits["plain"], digits["x"][:3], digits["y"][:3]
    small = {"steps": 1, "queries": 1}
    plus = played(AutoAttack(version="plus", **small), view_of(net, x, y, Ball("linf", 0.01, UNIT)))
    assert plus == (
        "autoattack plus: apgd-ce (5 restarts), apgd-dlr (5 restarts), apgd-t (9 targets, dlr), fab (5 restarts), "
        "fab-t (9 targets), square (1 queries)"
    )
    rand = played(AutoAttack(version="rand", **small), view_of(net, x, y, Ball("linf", 0.01, UNIT)))
    assert rand == "autoattack rand: apgd-ce, apgd-dlr"
    l1 = played(AutoAttack(**small), view_of(net, x, y, Ball("l1", 0.01, UNIT)))
    assert l1.startswith("autoattack standard: apgd-ce (5 restarts), apgd-t (5 targets, dlr), fab-t (9 targets)")
    aimed = played(AutoAttack(**small), view_of(net, x, y, Ball("linf", 0.01, UNIT), target=(y + 1) % 10))
    assert aimed == "autoattack standard: apgd-ce, apgd-dlr, fab, square (1 queries)"


def test_more_targets_than_wrong_classes_are_refused_before_any_pass(digits, view_of):
    view = view_of(digits["plain"], digits["x"][:2], digits["y"][:2], Ball("linf", 0.1, UNIT))
    with pytest.raises(RequestError, match="at most 9 targets for 10 classes, got targets=10"):
        AutoAttack(targets=10)(view, Streams(0))
    assert view.meter.forwards == 0


def test_only_what_stands_goes_on(digits, view_of):
    net, x, y = digits["plain"], digits["x"][:40], digits["y"][:40]
    view = view_of(net, x, y, Ball("linf", 0.3, UNIT))
    moved = AutoAttack()(view, Streams(0))
    assert not left_robust(net, moved, y).any()
    assert view.meter.forwards < 40 * 30


@pytest.mark.parametrize(
    "norm", ["linf", pytest.param("l2", marks=pytest.mark.slow), pytest.param("l1", marks=pytest.mark.slow)]
)
def test_the_verdict_of_the_authors_code_from_a_fifth_of_its_passes(norm, digits, view_of):
    """Components at a tenth of their length, Square at less on both sides; `cascade` at its own."""
    peer = imported("pyautoattack.autoattack")
    net, x, y = digits["hardened"], digits["x"][:30], digits["y"][:30]
    ball = Ball(norm, RADII[norm], UNIT)
    theirs = peer.AutoAttack(net, eps=ball.radius, norm=norm.capitalize(), seed=0, version="standard")
    theirs.verbose = False
    theirs.apgd.n_iter = theirs.apgd_targeted.n_iter = theirs.fab.n_iter = 10
    theirs.square.n_queries = 100
    left = int(left_robust(net, theirs.run_standard_evaluation(x, y, batch_size=30)[0], y).sum())
    view = view_of(net, x, y, ball)
    ours = int(left_robust(net, AutoAttack(steps=10, queries=100)(view, Streams(0)), y).sum())
    assert 0 < ours <= left + 1
    view = view_of(net, x, y, ball)
    adaptive = int(left_robust(net, Cascade()(view, Streams(0)), y).sum())
    assert 0 < adaptive <= ours
    assert view.meter.forwards + view.meter.backwards < 2000 * adaptive  # its full length costs about 10,000


def test_a_sample_is_given_up_by_its_own_runs_alone(digits, view_of):
    net, x, y = digits["hardened"].double(), digits["x"][:16].double(), digits["y"][:16]
    try:
        ball, attack = Ball("linf", 0.1, UNIT), Cascade(steps=5, targets=3)
        whole = view_of(net, x, y, ball)
        attack(whole, Streams(0))
        parts = view_of(net, x, y, ball)
        for rows in torch.arange(16).split(5):
            attack(parts.take(rows), Streams(0))
        assert parts.meter.forwards == whole.meter.forwards
        assert parts.meter.broken == whole.meter.broken
    finally:
        digits["hardened"].float()


def test_rounds_break_what_short_runs_leave(digits, view_of):
    net, x, y = digits["hardened"], digits["x"], digits["y"]
    ball = Ball("linf", 0.2, UNIT)
    short, whole = (
        int(left_robust(net, attack(view_of(net, x, y, ball), Streams(0)), y).sum())
        for attack in (Cascade(rounds=0), Cascade())
    )
    assert whole <= short - 3


class Rejecting(Served):
    """Answers as its network does, and rejects all that is perturbed."""

    def __call__(self, x):
        return super().__call__(x)._replace(rejected=torch.ones(len(x), dtype=torch.bool))


def test_the_first_round_goes_on_and_the_others_start_anew_as_well():
    """A sample that stays just robust, of two classes: what its rounds cost says what they did."""
    network = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 4))
    common = {"x": torch.full((1, 4), 0.3), "y": torch.tensor([0]), "ids": torch.arange(1)}
    ball = Ball("linf", 0.2985, (-5.0, 5.0))
    costs = []
    for rounds in (0, 1, 2):
        meter = Meter()
        view = make_view("white-box", Served(network), {**common, "ball": ball, "classes": 2, "meter": meter})
        Cascade(rounds=rounds, queries=0)(view, Streams(0))
        costs.append(meter.backwards)
    on, anew = 45, 2 + 45  # from the best point; a turn of the start, and a run from there
    assert costs[1] - costs[0] == on + 2 * (on + anew)  # two more in overtime
    assert costs[2] - costs[1] == 3 * (on + anew)


def test_no_overtime_is_spent_on_what_is_rejected(digits, view_of, monkeypatch):
    net, x, y = digits["plain"], digits["x"][:4], digits["y"][:4]

    def passes():
        view = replace(view_of(net, x, y, Ball("linf", 0.3, UNIT)), deployed=Rejecting(net), alone=False)
        Cascade(rounds=1, queries=5)(view, Streams(0))
        return view.meter.forwards

    spent = passes()
    monkeypatch.setattr(cascade, "_OVERTIME", 0)
    assert spent == passes()


def test_adaptive_needs_few_passes_where_nothing_withstands(digits, view_of):
    net, x, y = digits["plain"], digits["x"], digits["y"]
    view = view_of(net, x, y, Ball("linf", 0.3, UNIT))
    assert not left_robust(net, Cascade()(view, Streams(0)), y).any()
    assert view.meter.forwards < 12 * len(y)


class Hidden(nn.Module):
    """A flat cross-entropy, as of a net whose logits are scaled."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return 1000 * self.net(x)


def test_scaled_logits_do_not_help(digits, view_of):
    net, x, y = digits["hardened"], digits["x"][:60], digits["y"][:60]
    left = []
    for module in (net, Hidden(net)):
        view = view_of(module, x, y, Ball("linf", 0.12, UNIT))
        left.append(int(left_robust(module, Cascade(rounds=1)(view, Streams(0)), y).sum()))
    assert abs(left[0] - left[1]) <= 1


class Steep(nn.Module):
    """Linear in 60 classes: the 20 likeliest wrong ones hardly move with the input, a less likely one does."""

    def __init__(self):
        super().__init__()
        signs = torch.randn(60, 64, generator=torch.Generator().manual_seed(0)).sign()
        self.slopes = nn.Parameter(torch.zeros(60, 64), requires_grad=False)
        self.offsets = nn.Parameter(torch.full((60,), -60.0), requires_grad=False)
        self.slopes[1:21], self.slopes[25], self.slopes[26:] = 0.001 * signs[1:21], signs[25], 2 * signs[26:]
        self.offsets[0], self.offsets[1:21], self.offsets[25] = 0.0, -1.0, -6.0

    def forward(self, x):
        return (x.flatten(1) - 0.5) @ self.slopes.T + self.offsets


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 0.8)])
def test_of_many_classes_the_nearest_are_pursued(norm, radius, view_of):
    """Class 25 lies 6 below, and a step of the whole radius brings it up by 6.4; all others are out of reach."""
    net, x, y = Steep(), torch.full((6, 1, 8, 8), 0.5), torch.zeros(6, dtype=torch.int64)
    view = view_of(net, x, y, Ball(norm, radius, UNIT), classes=60)
    assert not left_robust(net, Cascade(rounds=0)(view, Streams(0)), y).any()


def test_expected_averages_probabilities():
    class Turns(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn = 0

        def forward(self, x):
            self.turn += 1
            return x if self.turn % 2 else -x

    x = torch.randn(4, 3)
    mean = (x.softmax(1) + (-x).softmax(1)) / 2
    assert torch.allclose(Expected(Turns(), 2)(x).softmax(1), mean, atol=1e-6)
