"""Auto-PGD: its rules against the paper's, what it spends, and where it is stronger."""

import pytest
import torch
from torch import nn

from robustsuite.attacks.evasion import apgd as rules
from robustsuite.attacks.evasion.apgd import APGD
from robustsuite.attacks.evasion.pgd import PGD
from robustsuite.core import losses
from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.streams import Streams

RADII = {"linf": 0.15, "l2": 1.0, "l1": 3.0}
DUAL = {"linf": 1, "l2": 2, "l1": float("inf")}


class Unbeatable(nn.Module):
    """Depends on its input, and never errs: the true class leads by a wide margin."""

    def forward(self, x):
        score = x.flatten(1).sum(1) / x[0].numel()
        return torch.stack([10 + score, score * 2, -score, score * 0], dim=1)


def left(net, moved, y):
    return net(moved).argmax(1) == y


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [(100, (22, 41, 57, 70, 80, 87, 93, 99)), (50, (11, 21, 29, 35, 40, 44, 47, 50)), (10, (3, 5, 6, 7, 8, 9, 10)),
     (1, (1,))],
)  # fmt: skip
def test_checkpoints_are_the_papers(steps, wanted):
    assert rules.checkpoints(steps) == wanted


def state(**changes):
    """Two runs in one dimension of which nothing happened yet."""
    zero = torch.zeros(2)
    fields = dict.fromkeys(rules.Runs._fields, zero) | {
        "x": torch.ones(2, 1), "best": torch.full((2, 1), 3.0), "centre": torch.zeros(2, 1), "length": torch.ones(2),
        "gradient": torch.ones(2, 1), "best_gradient": -torch.ones(2, 1),
        "halved": torch.tensor([False, False]), "best_loss": torch.ones(2), "loss": zero,
    }  # fmt: skip
    return rules.Runs(**{**fields, **changes})


def test_a_run_that_seldom_rises_is_halved_and_goes_back():
    checked = rules.halve(state(rises=torch.tensor([7.0, 8.0])), 10)  # of ten, three quarters are 7.5
    assert checked.length.tolist() == [0.5, 1.0]
    assert checked.x.tolist() == [[3.0], [1.0]]
    assert checked.gradient.tolist() == [[-1.0], [1.0]]
    assert checked.loss.tolist() == [1.0, 0.0]
    assert checked.halved.tolist() == [True, False]
    assert checked.checked.tolist() == [1.0, 1.0]
    assert checked.rises.tolist() == [0.0, 0.0]


def test_a_run_that_gained_nothing_is_halved_unless_it_was_just():
    rising = {"rises": torch.full((2,), 10.0), "checked": torch.ones(2)}
    checked = rules.halve(state(**rising, halved=torch.tensor([False, True])), 10)
    assert checked.length.tolist() == [0.5, 1.0]
    assert rules.halve(state(**{**rising, "checked": torch.zeros(2)}), 10).length.tolist() == [1.0, 1.0]


def test_l1_runs_follow_the_support_of_their_best_points():
    best = torch.tensor([[1.0, 0, 0, 0], [1.0, 1.0, 1.0, 0]])
    wide = {name: torch.ones(2, 4) for name in ("x", "gradient", "best_gradient")} | {"centre": torch.zeros(2, 4)}
    checked = rules.sparsen(
        state(**wide, best=best, support=torch.tensor([2.0, 3.0]), length=torch.full((2,), 0.9)), 3.0
    )
    assert checked.length.tolist() == pytest.approx([3.0, 0.6])  # restarts with the radius; else a third less
    assert checked.share.tolist() == pytest.approx([1 / 4 / 1.5, 3 / 4 / 1.5])
    assert checked.support.tolist() == [1.0, 3.0]
    assert torch.equal(checked.x, torch.stack([best[0], torch.ones(4)]))
    shortest = rules.sparsen(
        state(**wide, best=best, support=torch.tensor([1.0, 3.0]), length=torch.full((2,), 0.31)), 3.0
    )
    assert shortest.length.tolist() == pytest.approx([0.3, 0.3])


def test_a_sparse_step_is_of_its_length_along_the_greatest_gradients():
    x = torch.zeros(2, 1, 2, 3, dtype=torch.float64)
    slope = torch.tensor([[5.0, -4.0, 3.0, 2.0, -1.0, 0.0]] * 2, dtype=torch.float64).reshape(2, 1, 2, 3)
    moved = rules.sparse_step(x, slope, torch.tensor([1.0, 2.0]).double(), torch.tensor([0.34, 0.01]).double())
    assert moved.flatten(1).tolist() == [[0.5, -0.5, 0, 0, 0, 0], [2.0, 0, 0, 0, 0, 0]]
    assert float(rules.sparse_step(x, slope * 0, torch.ones(2), torch.ones(2)).abs().sum()) == 0


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("options", [{}, {"restarts": 2}, {"targets": 2, "loss": "dlr"}])
def test_passes_on_a_model_that_never_falls(norm, options, view_of):
    x, y = torch.rand(20, 1, 4, 4), torch.zeros(20, dtype=torch.int64)
    view = view_of(Unbeatable(), x, y, Ball(norm, 0.3), classes=4)
    APGD(steps=12, **options)(view, Streams(0))
    runs = options.get("restarts", 1) * options.get("targets", 1)
    aiming = 20 if "targets" in options else 0
    assert view.meter.backwards == runs * 12 * 20
    assert view.meter.forwards == runs * (12 + (5 if norm == "l1" else 1)) * 20 + aiming


def test_a_broken_sample_costs_nothing_more(digits, view_of):
    view = view_of(digits["plain"], digits["x"], digits["y"], Ball("linf", 0.3, (0.0, 1.0)))
    moved = APGD(restarts=5)(view, Streams(0))
    assert not bool(left(digits["plain"], moved, digits["y"]).any())
    assert view.meter.backwards < 0.1 * 100 * len(moved)
    assert view.meter.broken == set(range(len(moved)))


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_form(norm, dtype, view_of):
    """On a linear model the margin falls by the radius times the dual norm of the weights, and no further."""
    weight = Streams(0).normal(torch.tensor([0]), (60,), dtype=dtype)[0] / 60
    reach = 0.1 * torch.linalg.vector_norm(weight, ord=DUAL[norm])
    x = Streams(1).normal(torch.arange(12), (60,), dtype=dtype)
    y = (x @ weight > 0).long()
    sign = 2.0 * y - 1
    x = x + sign[:, None] * weight * (2 * reach / weight.square().sum())

    class Linear(nn.Module):
        def forward(self, z):
            return torch.stack([-z @ weight / 2, z @ weight / 2], dim=1)

    view = view_of(Linear(), x, y, Ball(norm, 0.1), classes=2)
    moved = APGD(steps=100)(view, Streams(0))
    torch.testing.assert_close(sign * (moved @ weight), sign * (x @ weight) - reach, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", RADII)
def test_it_is_at_least_as_strong_as_pgd_for_the_same_passes(norm, digits, view_of):
    """Processors train other networks of one seed, so the radius leaves many standing, and two starts are summed.

    From start to start a count varies by 1.7 (one deviation), so the difference of two sums by twice that.
    """
    net, x, y = digits["hardened"], digits["x"], digits["y"]
    ball = Ball(norm, {**RADII, "l1": 2.0}[norm], (0.0, 1.0))

    def left_robust(attack):
        return sum(int(left(net, attack(view_of(net, x, y, ball), Streams(seed)), y).sum()) for seed in (0, 1))

    ours, pgd = left_robust(APGD(steps=50)), left_robust(PGD(steps=50))
    assert ours <= pgd + 2 * 2 * 1.7
    assert norm != "l1" or ours < 0.9 * pgd


def test_targets_and_restarts_never_help_the_defender(digits, view_of):
    net, x, y = digits["hardened"], digits["x"], digits["y"]
    ball = Ball("linf", 0.15, (0.0, 1.0))

    def stand(**options):
        return int(left(net, APGD(steps=15, **options)(view_of(net, x, y, ball), Streams(0)), y).sum())

    plain, many = stand(), stand(loss="dlr", targets=5)
    assert stand(restarts=2) <= plain
    assert many <= stand(loss="dlr", targets=1)
    assert many < plain


def test_saturated_logits_hide_from_cross_entropy_and_not_from_the_ratio(digits, view_of):
    class Loud(nn.Module):
        def forward(self, x):
            return 1000 * digits["plain"](x)

    x, y, ball = digits["x"], digits["y"], Ball("linf", 0.15, (0.0, 1.0))
    stand = {}
    for loss in ("cross-entropy", "dlr", "margin"):
        view = view_of(Loud(), x, y, ball)
        stand[loss] = int(left(Loud(), APGD(steps=30, loss=loss)(view, Streams(0)), y).sum())
        assert (view.meter.zero_gradients > 0.1 * view.meter.gradients) == (loss == "cross-entropy")
    usual = APGD(steps=30, loss="dlr")(view_of(digits["plain"], x, y, ball), Streams(0))
    assert abs(stand["dlr"] - int(left(digits["plain"], usual, y).sum())) <= 2
    assert stand["cross-entropy"] > stand["dlr"] + 50


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 200])
def test_with_few_classes_the_margin_is_taken_and_said(classes, fresh_network, view_of):
    net = fresh_network(classes).eval()
    x = Streams(3).uniform(torch.arange(12), (1, 8, 8))
    view = view_of(net, x, net(x).argmax(1), Ball("linf", 0.1, (0.0, 1.0)), classes=classes)
    moved = APGD(steps=10, loss="dlr", targets=min(9, classes - 1))(view, Streams(0))
    assert bool((net(moved).argmax(1) != view.y).any())
    said = ["margin was taken in place of dlr, which needs more classes"] if classes < 4 else []
    assert list(view.meter.notes) == said


def test_impossible_targets_are_refused_before_any_pass(digits, view_of):
    net, x, y = digits["plain"], digits["x"], digits["y"]
    view = view_of(net, x, y, Ball("linf", 0.1))
    with pytest.raises(RequestError, match="at most 9 targets for 10 classes, got targets=10"):
        APGD(targets=10)(view, Streams(0))
    aimed = view_of(net, x, y, Ball("linf", 0.1), target=(y + 1) % 10)
    with pytest.raises(RequestError, match="untargeted goal"):
        APGD(targets=2)(aimed, Streams(0))
    assert view.meter.forwards == aimed.meter.forwards == 0


@pytest.mark.parametrize("loss", losses.NAMED)
def test_a_targeted_goal_is_reached(loss, digits, view_of):
    net, x, y = digits["plain"], digits["x"], digits["y"]
    target = (y + 1) % 10
    view = view_of(net, x, y, Ball("linf", 0.35, (0.0, 1.0)), target=target)
    moved = APGD(steps=50, loss=loss)(view, Streams(0))
    enough = 120 if loss == "probability-margin" else 190  # it is flat where the label is as good as certain
    assert int((net(moved).argmax(1) == target).sum()) > enough


def test_a_robust_sample_is_returned_where_its_loss_was_largest(digits, view_of):
    net, x, y = digits["hardened"], digits["x"], digits["y"]
    ball = Ball("linf", 0.1, (0.0, 1.0))
    moved = APGD(steps=30)(view_of(net, x, y, ball), Streams(0))
    shorter = PGD(steps=30)(view_of(net, x, y, ball), Streams(0))
    both = left(net, moved, y) & left(net, shorter, y)
    gain = losses.cross_entropy(net(moved), y) - losses.cross_entropy(net(shorter), y)
    assert int(both.sum()) > 50
    assert float(gain[both].mean()) > 0
    assert float(gain[both].median()) > -1e-4


def test_nothing_beyond_the_ball_is_handed_in_or_counted_in_l1(digits, view_of):
    """The first stages climb in thrice and twice the radius, where much falls that stands in the ball."""
    net, x, y = digits["hardened"], digits["x"], digits["y"]
    view = view_of(net, x, y, Ball("l1", 1.0, (0.0, 1.0)))
    moved = APGD(steps=30)(view, Streams(0))
    assert bool(view.ball.contains(moved, x).all())
    stands = left(net, moved, y)
    assert int(stands.sum()) > 20
    assert view.meter.broken == set((~stands).nonzero()[:, 0].tolist())
