"""What PGD spends, what it keeps, and in which order it is stronger."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from robustsuite.attacks.evasion.fgsm import FGSM
from robustsuite.attacks.evasion.noise import Noise
from robustsuite.attacks.evasion.pgd import PGD
from robustsuite.core import losses
from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.streams import Streams

RADII = {"linf": 0.15, "l2": 1.0, "l1": 5.0}


class Unbeatable(nn.Module):
    """Depends on its input, and never errs: the true class leads by a wide margin."""

    def forward(self, x):
        score = x.flatten(1).sum(1) / x[0].numel()
        return torch.stack([10 + score, score * 2, -score], dim=1)


class FallsWhereTheSumIs(nn.Module):
    """Errs exactly where the first coordinate exceeds a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, x):
        first = x.flatten(1)[:, 0]
        return torch.stack([self.threshold - first, first - self.threshold], dim=1)


def robust(net, moved, y):
    return net(moved).argmax(1) == y


@pytest.mark.parametrize(("steps", "restarts"), [(1, 1), (7, 1), (5, 3)])
def test_passes_on_a_model_that_never_falls(view_of, steps, restarts):
    x, y = torch.rand(13, 1, 4, 4), torch.zeros(13, dtype=torch.int64)
    view = view_of(Unbeatable(), x, y, Ball("linf", 0.3), classes=3)
    PGD(steps=steps, restarts=restarts)(view, Streams(0))
    assert view.meter.backwards == restarts * steps * 13
    assert view.meter.forwards == restarts * (steps + 1) * 13


def test_fgsm_costs_one_pass(view_of):
    x, y = torch.rand(13, 1, 4, 4), torch.zeros(13, dtype=torch.int64)
    view = view_of(Unbeatable(), x, y, Ball("linf", 0.3), classes=3)
    FGSM()(view, Streams(0))
    assert (view.meter.forwards, view.meter.backwards) == (13, 13)


def test_a_broken_sample_is_kept_where_it_broke_and_costs_nothing_more(view_of):
    """Steps of 0.1 from 0 towards a threshold of 0.25: it falls at the third step and is never moved again."""
    x = torch.zeros(5, 1, dtype=torch.float64)
    x[3:] = -10.0  # out of reach
    view = view_of(FallsWhereTheSumIs(0.25), x, torch.zeros(5, dtype=torch.int64), Ball("linf", 1.0), classes=2)
    moved = PGD(steps=8, step_size=0.1, random_start=False)(view, Streams(0))
    torch.testing.assert_close(moved[:3], torch.full((3, 1), 0.3, dtype=torch.float64))
    # Where three of five fall at once, the two others are passed on again, forwards and back, which is shorter.
    assert view.meter.forwards == 3 * 4 + 2 * 9 + 2
    assert view.meter.backwards == 3 * 3 + 2 * 8
    assert view.meter.broken == {0, 1, 2}


def test_an_undefended_net_costs_fewer_passes(view_of, digits):
    counts = {}
    for name in ("plain", "hardened"):
        view = view_of(digits[name], digits["x"], digits["y"], Ball("linf", 0.25, (0.0, 1.0)))
        PGD(steps=20)(view, Streams(0))
        counts[name] = view.meter.backwards
    full = 20 * len(digits["y"])
    assert counts["plain"] < 0.5 * full
    assert counts["plain"] < counts["hardened"] < full


def test_restarts_on_an_undefended_net_cost_almost_nothing(view_of, digits):
    counts = []
    for restarts in (1, 5):
        view = view_of(digits["plain"], digits["x"], digits["y"], Ball("linf", 0.3, (0.0, 1.0)))
        PGD(steps=20, restarts=restarts)(view, Streams(0))
        counts.append(view.meter.backwards)
    assert counts[1] <= 1.1 * counts[0]


def test_restarts_never_help_the_defender_and_count_per_sample(view_of, digits):
    ball = Ball("linf", 0.2, (0.0, 1.0))
    survivors = []
    for restarts in (1, 2, 6):
        view = view_of(digits["hardened"], digits["x"], digits["y"], ball)
        moved = PGD(steps=10, restarts=restarts)(view, Streams(0))
        survivors.append(robust(digits["hardened"], moved, digits["y"]))
    for fewer, more in pairwise(survivors):
        assert not bool((more & ~fewer).any())
    assert int(survivors[-1].sum()) < int(survivors[0].sum())


def test_a_robust_sample_is_returned_where_its_loss_was_largest(view_of, digits):
    net, x, y = digits["hardened"], digits["x"], digits["y"]
    ball = Ball("linf", 0.1, (0.0, 1.0))
    seen = {}
    view = view_of(net, x, y, ball)

    def watch(name):
        plain = getattr(view, name)

        def watched(z, rows, loss, **told):
            result = plain(z, rows, loss, **told)
            for row, value in zip(rows.tolist(), result.value.tolist(), strict=True):
                seen[row] = max(value, seen.get(row, -1e9))
            return result

        object.__setattr__(view, name, watched)

    watch("value_and_grad")
    watch("value")
    moved = PGD(steps=12, step_size=0.7)(view, Streams(0))  # long steps overshoot, so that last is not best
    standing = robust(net, moved, y)
    got = losses.cross_entropy(net(moved), y)
    most = torch.tensor([seen[i] for i in range(len(y))])
    assert bool(standing.any())
    torch.testing.assert_close(got[standing], most[standing], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", RADII)
def test_iterated_beats_one_step_beats_noise(view_of, digits, norm):
    net, x, y = digits["hardened"], digits["x"], digits["y"]
    ball = Ball(norm, RADII[norm], (0.0, 1.0))
    share = {}
    for name, attack in (("pgd", PGD(steps=30)), ("fgsm", FGSM()), ("noise", Noise()), ("far", Noise(extreme=True))):
        view = view_of(net, x, y, ball, "blind" if isinstance(attack, Noise) else "white-box")
        moved = attack(view, Streams(0))
        assert bool(ball.contains(moved, x).all())
        share[name] = float(robust(net, moved, y).double().mean())
    assert share["pgd"] <= share["fgsm"] < share["far"]
    assert share["pgd"] < share["noise"]


@pytest.mark.parametrize("norm", RADII)
def test_more_radius_more_success_until_nothing_stands(view_of, digits, norm):
    net, x, y = digits["hardened"], digits["x"], digits["y"]
    found = [1.0]
    for scale in (0.25, 0.5, 1.0, 2.0, 8.0):
        ball = Ball(norm, RADII[norm] * scale, (0.0, 1.0))
        moved = PGD(steps=25)(view_of(net, x, y, ball), Streams(0))
        found.append(float(robust(net, moved, y).double().mean()))
    assert all(a >= b for a, b in pairwise(found)), found
    assert found[-1] <= 0.02


def test_momentum_is_the_published_iteration(view_of):
    """g <- mu g + grad / ||grad||_1, x <- x + step sign(g): followed by hand on a model with a turning gradient."""

    class Bowl(nn.Module):
        def forward(self, x):
            away = x - torch.tensor([0.3, -0.2], dtype=x.dtype)
            score = -(away[:, 0] ** 2) - 4 * away[:, 1] ** 2
            return torch.stack([50 - score, score], dim=1)

    net, ball, mu, step = Bowl(), Ball("linf", 1.0), 0.8, 0.15
    x = torch.zeros(1, 2, dtype=torch.float64)
    y = torch.zeros(1, dtype=torch.int64)
    by_hand, trend, visited = x.clone(), torch.zeros_like(x), []
    for _ in range(6):
        leaf = by_hand.clone().requires_grad_()
        loss = losses.margin(net(leaf), y)
        visited.append((loss.item(), by_hand))
        (slope,) = torch.autograd.grad(loss.sum(), leaf)
        trend = mu * trend + slope / slope.abs().sum()
        by_hand = (by_hand + step * trend.sign()).clamp(-1, 1)
    visited.append((losses.margin(net(by_hand), y).item(), by_hand))
    view = view_of(net, x, y, ball, classes=2)
    moved = PGD(steps=6, step_size=step, random_start=False, momentum=mu, loss="margin")(view, Streams(0))
    torch.testing.assert_close(moved, max(visited, key=lambda pair: pair[0])[1])
    without = PGD(steps=6, step_size=step, random_start=False, loss="margin")(view, Streams(0))
    assert not torch.equal(without, moved)


def test_targeted_attacks_reach_their_target_and_nothing_else_counts(view_of, digits):
    net, x, y = digits["plain"], digits["x"], digits["y"]
    target = (y + 1) % 10
    ball = Ball("linf", 0.3, (0.0, 1.0))
    view = view_of(net, x, y, ball, target=target)
    moved = PGD(steps=40)(view, Streams(0))
    hit = net(moved).argmax(1) == target
    assert float(hit.double().mean()) > 0.9
    assert view.meter.broken == set(hit.nonzero()[:, 0].tolist())
    noise = Noise()(view_of(net, x, y, ball, "blind", target=target), Streams(0))
    assert float((net(noise).argmax(1) == target).double().mean()) < 0.2


def test_the_margin_loss_gets_past_saturated_logits(view_of, digits):
    """Logits x 1000 mask the gradient of cross-entropy; the scale-free loss is not fooled (SCIENCE, section 2)."""

    class Saturated(nn.Module):
        def forward(self, z):
            return 1000 * digits["plain"](z)

    ball, x, y = Ball("linf", 0.3, (0.0, 1.0)), digits["x"], digits["y"]
    survive = {}
    for loss in losses.NAMED:
        view = view_of(Saturated(), x, y, ball)
        moved = PGD(steps=20, random_start=False, loss=loss)(view, Streams(0))
        survive[loss] = float(robust(digits["plain"], moved, y).double().mean())
        masked = view.meter.zero_gradients / max(1, view.meter.gradients)
        assert (masked > 0.1) == (loss in ("cross-entropy", "probability-margin"))
    assert survive["margin"] < 0.05 < 0.5 < survive["cross-entropy"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps=0"),
        ({"step_size": 0.0}, "step_size=0.0"),
        ({"step_size": 2.5}, "step_size=2.5"),
        ({"restarts": 0}, "restarts=0"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"l1_share": 1.5}, "l1_share=1.5"),
        ({"loss": "crossentropy"}, "did you mean 'cross-entropy'"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(RequestError, match="expected") as caught:
        PGD(**options)
    assert words in str(caught.value)
