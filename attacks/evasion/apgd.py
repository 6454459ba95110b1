"""Auto-PGD: gradient ascent with momentum whose step size follows the progress, so that only the budget is chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

import torch
from torch import Tensor

from robustsuite.access import BestSoFar, WhiteBox
from robustsuite.access.best_so_far import side_by_side
from robustsuite.core import Ball, Streams, checks, losses
from robustsuite.core.rows import per_sample
from robustsuite.plugins import register
from robustsuite.scenarios.protocol import Terms

_MOMENTUM: Final = 0.25  # weight of the last step against the new one
_RHO: Final = 0.75  # share of steps that must raise the loss, or the step is halved
_L1_STAGES: Final = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # radii in radii, and their shares of the steps
_L1_CHECKS: Final = 0.04  # of a stage's steps, between two looks at the support
_SHRINKS: Final = 0.95  # of its support, below which an l1 point counts as having grown sparser
_SHORTER: Final = 1.5  # by which l1 steps and supports are divided
_SHORTEST: Final = 10.0  # part of the radius, in l1
_FIRST_SHARE: Final = 0.2  # of the coordinates that the first l1 steps from a centre move


@register.attack("apgd", scenario="evasion", access="white-box", taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022"))
@dataclass(frozen=True, kw_only=True)
class APGD:
    """Ascend with momentum, halving the step and going back to the best point wherever progress stalls.

    Nothing but the budget needs choosing. A sample that reaches the goal is kept where it did and costs no further
    pass; one that is never broken is returned where its loss was greatest. Where nothing is broken each run costs
    `steps` backward and `steps + 1` forward passes a sample. In l1 steps are sparse, and a run begins in three times,
    then twice the radius, for 4 forward passes more.

    Args:
        steps: Gradient steps of one run, at least 1.
        restarts: Runs (for each target), at least 1.
        loss: What to ascend: `cross-entropy`, `margin`, `probability-margin`, or `dlr`, which needs 4 classes; with
            fewer the margin is taken in its place, and a note says so.
        targets: Classes to pursue one after the other, the most likely wrong ones first; 0 pursues any. For untargeted
            goals, where any wrong class is success; at most one less than there are classes.
        random_start: Whether the first run starts at a uniform point of the ball; later runs always do.

    Raises:
        RequestError: Targets beside a targeted goal, or more of them than there are wrong classes.

    Guarantees:
        Start points are keyed by sample id and run, so they are bit-equal in any batch.

    References:
        Croce and Hein, ICML 2020, arXiv:2003.01690; in l1: Croce and Hein, ICML 2021, arXiv:2103.01208.

    Example:
        >>> APGD(steps=50, loss="dlr", targets=3).restarts
        1
    """

    steps: int = 100
    restarts: int = 1
    loss: str = "cross-entropy"
    targets: int = 0
    random_start: bool = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.integer("restarts", self.restarts, low=1)
        checks.one_of("loss", self.loss, losses.NAMED)
        checks.integer("targets", self.targets, low=0)

    def check(self, terms: Terms) -> None:
        """Refuse more targets than there are wrong classes, and targets beside a targeted goal."""
        self._suits(terms.classes, terms.targeted)

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)` for the samples of this view."""
        best = BestSoFar(view.x)
        if view.ball.radius == 0:
            return best.x
        aims = self._aims(view)
        left = [(target, restart) for target in range(aims.shape[1]) for restart in range(self.restarts)]
        rows, together = best.left(), 1
        while left and len(rows) > 0:
            runs, left = left[:together], left[together:]
            starts = [self._start(view, rows, streams, *run) for run in runs]
            aim = torch.cat([aims[rows, target] for target, _ in runs])
            self._run(view, torch.cat(starts), rows.repeat(together), aim, best)
            rows = best.left()
            together = side_by_side(len(left), len(rows), view.full)
        return best.x

    def _aims(self, view: WhiteBox) -> Tensor:
        """Classes to pursue `(N, targets)`, the most likely first; without targets one column that nobody reads."""
        if self.targets == 0:
            return view.y[:, None]
        self._suits(view.classes, view.target is not None)
        wrong = view.logits(view.x).scatter(1, view.y[:, None], -math.inf)
        return wrong.topk(self.targets, dim=1).indices

    def _suits(self, classes: int, targeted: bool) -> None:
        if self.targets > 0 and targeted:
            raise checks.fail("an untargeted goal beside targets", "targets", self.targets, "drop one of the two")
        checks.targets("targets", self.targets, classes)

    def _start(self, view: WhiteBox, rows: Tensor, streams: Streams, target: int, restart: int) -> Tensor:
        if target == restart == 0 and not self.random_start:
            return view.x[rows]
        widest, _ = _stages(view.ball, self.steps)[0]
        return widest.sample(view.x[rows], view.ids[rows], streams.child("start", target, restart))

    def _run(self, view: WhiteBox, x: Tensor, rows: Tensor, aim: Tensor, best: BestSoFar) -> None:
        """One run of each row, in one stage or, in l1, in three."""
        begun = 0
        for ball, steps in _stages(view.ball, self.steps):
            climb = Climb(self, view, ball, steps, begun, best)
            runs = climb(ball.project(x, view.x[rows]), rows, aim)
            begun += steps
            if ball.radius > view.ball.radius and len(runs.rows) > 0:
                # The best point of a wider ball is drawn into the ball; where that breaks the sample, its runs end.
                inside = view.ball.project(runs.best, runs.centre)
                nowhere = torch.full_like(runs.best_loss, -math.inf)
                best.keep(inside, runs.rows, nowhere, view.broken(inside, runs.rows))
                runs = runs.of(best.unbroken(runs.rows))
            x, rows, aim = runs.best, runs.rows, runs.aim
            if len(rows) == 0:
                return


def _stages(ball: Ball, steps: int) -> list[tuple[Ball, int]]:
    """Balls to climb in, with their shares of the steps."""
    if ball.norm != "l1":
        return [(ball, steps)]
    wide = [(ball.scaled(scale * ball.radius), math.ceil(share * steps)) for scale, share in _L1_STAGES[:-1]]
    left = steps - sum(count for _, count in wide)
    return [*wide, (ball, left)] if left > 0 else [(ball, steps)]


class Runs(NamedTuple):
    """Runs side by side; every part has one row a run.

    `rows` are the samples they belong to, `aim` the classes they pursue, `best` the points of greatest loss, `checked`
    that loss at the last check, `rises` the steps since then that raised the loss, `halved` whether that check halved
    the step. Only l1 uses `share`, of the coordinates to move, and `support`, of the best point at the last check.
    """

    rows: Tensor
    aim: Tensor
    centre: Tensor
    x: Tensor
    before: Tensor
    loss: Tensor
    gradient: Tensor
    best: Tensor
    best_loss: Tensor
    best_gradient: Tensor
    checked: Tensor
    rises: Tensor
    length: Tensor
    halved: Tensor
    share: Tensor
    support: Tensor

    def of(self, runs: Tensor) -> Runs:
        """The runs that this mask picks."""
        return Runs(*(part[runs] for part in self))

    def back(self, runs: Tensor) -> Runs:
        """Those that this mask picks at their best points again."""
        back = per_sample(runs, self.x)
        return self._replace(
            x=torch.where(back, self.best, self.x),
            loss=torch.where(runs, self.best_loss, self.loss),
            gradient=torch.where(back, self.best_gradient, self.gradient),
        )


@dataclass(frozen=True, eq=False)
class Climb:
    """The steps of one stage, in a ball that may be wider than the view's.

    Args:
        attack: Loss, whether targets are pursued, and the steps of all stages together.
        view: Whose samples are attacked.
        ball: Where to climb.
        steps: Of this stage.
        begun: Steps of the stages before.
        best: What is returned so far.
        reach: Length of the first step, in usual ones.
    """

    attack: APGD
    view: WhiteBox
    ball: Ball
    steps: int
    begun: int
    best: BestSoFar
    reach: float = 1.0

    def __call__(self, x: Tensor, rows: Tensor, aim: Tensor) -> Runs:
        """The runs of samples that are not broken after the last step."""
        runs, l1 = self._begin(x, rows, aim), self.ball.norm == "l1"
        every = max(1, int(_L1_CHECKS * self.steps))
        points = range(every, self.steps, every) if l1 else checkpoints(self.steps)
        since = {point: point - before for before, point in pairwise((0, *points))}
        for step in range(1, self.steps + 1):
            unbroken = self.best.unbroken(runs.rows)
            runs = runs if unbroken.all() else runs.of(unbroken)
            if len(runs.rows) == 0:
                break
            runs = move(runs, self.ball, first=step == 1)
            loss, gradient = self._see(runs.x, runs.rows, runs.centre, runs.aim, step)
            runs = look(runs, loss, gradient if step < self.steps else runs.gradient)
            if step in since and step < self.steps:
                runs = sparsen(runs, self.ball.radius) if l1 else halve(runs, since[step])
        return runs.of(self.best.unbroken(runs.rows))

    def _begin(self, x: Tensor, rows: Tensor, aim: Tensor) -> Runs:
        """Runs that begin at `x`, by steps of twice the radius, in l1 of once."""
        centre, ball = self.view.x[rows], self.ball
        loss, gradient = self._see(x, rows, centre, aim, 0)
        loss = loss.nan_to_num(nan=-math.inf)
        support, width = _support(x, centre), centre[0].numel()
        share = torch.where(support > 0, support / width / _SHORTER, _FIRST_SHARE)
        support = torch.where(support > 0, support, width)
        length = self.reach * torch.full_like(loss, ball.radius * (1.0 if ball.norm == "l1" else 2.0))
        fresh = torch.zeros_like(loss)
        return Runs(
            rows, aim, centre, x, x, loss, gradient, x, loss, gradient, loss, fresh, length, fresh > 0, share, support
        )  # fmt: skip

    def _see(self, x: Tensor, rows: Tensor, centre: Tensor, aim: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Loss and gradient at these points, without a gradient after the last step; what they break is kept."""
        attack, view = self.attack, self.view
        name = losses.resolve(attack.loss, view.classes)
        if name != attack.loss:
            view.meter.notes[f"{name} was taken in place of {attack.loss}, which needs more classes"] = None
        loss, narrow = (losses.TOWARDS if attack.targets else losses.NAMED)[name], self.ball.radius <= view.ball.radius
        target, progress = aim if attack.targets else None, (self.begun + step) / attack.steps
        if step < self.steps:
            value, gradient, broken = view.value_and_grad(
                x, rows, loss, target=target, progress=progress, unbroken_only=narrow
            )
        else:
            (value, broken), gradient = view.value(x, rows, loss, target=target, progress=progress), x.new_empty(0)
        if narrow:
            self.best.keep(x, rows, value, broken)
        else:
            # Beyond the view's ball a wrong answer is no success, and no point there is to be returned.
            inside = view.ball.contains(x, centre)
            self.best.keep(x, rows, torch.full_like(value, -math.inf), broken & inside)
        return value, gradient


def move(runs: Runs, ball: Ball, *, first: bool) -> Runs:
    """One step along the gradient, and but for the first one a quarter of the last step, projected."""
    x, centre = runs.x, runs.centre
    if ball.norm == "l1":
        new = ball.project(sparse_step(x, runs.gradient, runs.length, runs.share), centre)
    else:
        new = ball.project(ball.step(x, runs.gradient, runs.length), centre)
        if not first:
            new = ball.project(new + _MOMENTUM * ((x - new) + (x - runs.before)), centre)
    return runs._replace(x=new, before=x)


def sparse_step(x: Tensor, gradient: Tensor, length: Tensor, share: Tensor) -> Tensor:
    """Move by `length (n,)` in l1, spread over the share `(n,)` of the coordinates that have the greatest gradients."""
    size = gradient.abs().flatten(1)
    count = (share * size.shape[1]).long().clamp(1, size.shape[1])
    least = size.sort(dim=1, descending=True).values.gather(1, count[:, None] - 1)
    chosen = gradient.flatten(1).sign() * (size >= least)
    return x + per_sample(length, x) * (chosen / chosen.abs().sum(1, keepdim=True).clamp_min(1)).reshape(x.shape)


def look(runs: Runs, loss: Tensor, gradient: Tensor) -> Runs:
    """Take in loss and gradient at the present points."""
    better = loss > runs.best_loss
    here = per_sample(better, runs.x)
    return runs._replace(
        loss=loss,
        gradient=gradient,
        best=torch.where(here, runs.x, runs.best),
        best_loss=torch.where(better, loss, runs.best_loss),
        best_gradient=torch.where(here, gradient, runs.best_gradient),
        rises=runs.rises + (loss > runs.loss),
    )


def checkpoints(steps: int) -> tuple[int, ...]:
    """After which steps progress is checked: `ceil(p_j steps)`, p_1 = .22, p_j+1 = p_j + max(p_j - p_j-1 - .03, .06).

    Example:
        >>> checkpoints(100)
        (22, 41, 57, 70, 80, 87, 93, 99)
    """
    found: list[int] = []
    last, here = 0, 22  # in hundredths, so that nothing is rounded
    while here <= 100:
        found.append(-(-here * steps // 100))
        last, here = here, here + max(here - last - 3, 6)
    return tuple(dict.fromkeys(found))


def halve(runs: Runs, since: int) -> Runs:
    """Halve the step, and go back to the best point, of runs that stalled over the `since` steps since the last check.

    A run stalls where less than three quarters of its steps raised the loss, or where neither its step size nor its
    greatest loss have changed since the last check.
    """
    stuck = ~runs.halved & (runs.best_loss <= runs.checked)
    stalled = (runs.rises < _RHO * since) | stuck
    return runs.back(stalled)._replace(
        length=torch.where(stalled, runs.length / 2, runs.length),
        halved=stalled,
        checked=runs.best_loss,
        rises=torch.zeros_like(runs.rises),
    )


def sparsen(runs: Runs, radius: float) -> Runs:
    """In l1, follow the best point's support: while it shrinks go back there with long steps, else step shorter."""
    support = _support(runs.best, runs.centre)
    shrinks = support < _SHRINKS * runs.support
    shorter = (runs.length / _SHORTER).clamp_min(radius / _SHORTEST)
    return runs.back(shrinks)._replace(
        length=torch.where(shrinks, torch.full_like(shorter, radius), shorter),
        share=support / runs.centre[0].numel() / _SHORTER,
        support=support,
    )


def _support(x: Tensor, centre: Tensor) -> Tensor:
    return (x != centre).flatten(1).sum(1).to(x.dtype)
