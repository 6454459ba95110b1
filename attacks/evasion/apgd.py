"""Auto-PGD: gradient ascent with momentum whose step size follows the progress, so that only the budget is chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from robustsuite.access import BestSoFar, WhiteBox
from robustsuite.access.best_so_far import side_by_side
from robustsuite.attacks.evasion import apgd_rules as rules
from robustsuite.core import Ball, Streams, checks, losses
from robustsuite.plugins import register
from robustsuite.scenarios.protocol import Terms

_L1_STAGES: Final = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # radii in radii, and their shares of the steps
_L1_CHECKS: Final = 0.04  # of a stage's steps, between two looks at the support


@register.attack("apgd", scenario="evasion", access="white-box", taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022"))
@dataclass(frozen=True, kw_only=True)
class APGD:
    """Ascend with momentum, halving the step and going back to the best point wherever progress stalls.

    Nothing but the budget needs choosing. A sample that reaches the goal is kept where it fell and costs no further
    pass; one that never falls is returned where its loss was greatest. On a model that never falls each run costs
    `steps` backward and `steps + 1` forward passes a sample. In l1 steps are sparse, and a run begins in three times,
    then twice the radius, for 4 forward passes more.

    Args:
        steps: Gradient steps of one run, at least 1.
        restarts: Runs (for each target), at least 1.
        loss: What to ascend: `cross-entropy`, `margin`, or `dlr`, which needs 4 classes; with fewer the margin is taken
            in its place, and a note says so.
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
        widest = _stages(view.ball, self.steps)[0][0]
        return widest.sample(view.x[rows], view.ids[rows], streams.child("start", target, restart))

    def _run(self, view: WhiteBox, x: Tensor, rows: Tensor, aim: Tensor, best: BestSoFar) -> None:
        """One run of each row, in one stage or, in l1, in three."""
        begun = 0
        for ball, steps in _stages(view.ball, self.steps):
            climb = Climb(self, view, ball, steps, begun, best)
            state = climb(ball.project(x, view.x[rows]), rows, aim)
            begun += steps
            if ball.radius > view.ball.radius and len(state.rows) > 0:
                state = _drawn_in(view, state, best)
            x, rows, aim = state.best, state.rows, state.aim
            if len(rows) == 0:
                return


def _stages(ball: Ball, steps: int) -> list[tuple[Ball, int]]:
    """Balls to climb in, with their shares of the steps."""
    if ball.norm != "l1":
        return [(ball, steps)]
    wide = [(ball.scaled(scale * ball.radius), math.ceil(share * steps)) for scale, share in _L1_STAGES[:-1]]
    left = steps - sum(count for _, count in wide)
    return [*wide, (ball, left)] if left > 0 else [(ball, steps)]


def _drawn_in(view: WhiteBox, state: rules.Runs, best: BestSoFar) -> rules.Runs:
    """Without the runs of samples that fall where the best point of a wider ball is drawn into the ball."""
    x = view.ball.project(state.best, state.centre)
    best.keep(x, state.rows, torch.full_like(state.best_loss, -math.inf), view.broken(x, state.rows))
    return state.of(best.unbroken(state.rows))


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

    def __call__(self, x: Tensor, rows: Tensor, aim: Tensor) -> rules.Runs:
        """The runs that still stand after the last step."""
        centre = self.view.x[rows]
        loss, gradient = self._see(x, rows, centre, aim, 0)
        state = rules.start(rows, aim, centre, x, loss, gradient, self.ball)
        state = state._replace(length=self.reach * state.length)
        checked = 0
        for step in range(1, self.steps + 1):
            unbroken = self.best.unbroken(state.rows)
            state = state if unbroken.all() else state.of(unbroken)
            if len(state.rows) == 0:
                break
            state = rules.move(state, self.ball, first=step == 1)
            loss, gradient = self._see(state.x, state.rows, state.centre, state.aim, step)
            state = rules.look(state, loss, gradient if step < self.steps else None)
            if step < self.steps and self._checks(step):
                state, checked = self._check(state, step - checked), step
        return state.of(self.best.unbroken(state.rows))

    def _see(self, x: Tensor, rows: Tensor, centre: Tensor, aim: Tensor, step: int) -> tuple[Tensor, Tensor]:
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

    def _checks(self, step: int) -> bool:
        if self.ball.norm == "l1":
            return step % max(1, int(_L1_CHECKS * self.steps)) == 0
        return step in rules.checkpoints(self.steps)

    def _check(self, state: rules.Runs, since: int) -> rules.Runs:
        return rules.sparsen(state, self.ball.radius) if self.ball.norm == "l1" else rules.halve(state, since)
