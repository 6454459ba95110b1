"""The default for strong evaluation: the verdict of the large ensembles from a small part of their passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from robustsuite.access import BestSoFar, WhiteBox
from robustsuite.attacks.evasion.apgd import APGD, Climb, Runs
from robustsuite.attacks.evasion.linearised import Planes, furthest
from robustsuite.attacks.evasion.square import Searched, Square, answers_of
from robustsuite.core import Streams, checks, losses
from robustsuite.core.rows import per_sample
from robustsuite.plugins import register
from robustsuite.scenarios.protocol import Terms

_TURN: Final = 2  # passes by which a start is turned towards its class
_NEAR: Final = 0.05  # of the margin of the clean input, within which no sample is given up
_CLOSE: Final = 0.01  # of it, within which a sample is pursued after the rounds of all others
_OVERTIME: Final = 2  # times as many rounds, for those
_HOPE: Final = 6.0  # further rounds at the rate of the last one, beyond which a sample is given up
_WARM: Final = 0.25  # of a usual first step, from a point that is good already
_BACK: Final = 8  # places on the way back to the clean input, in the half of it that is near the best point
_PATCH: Final = 0.3  # of the input, that the first windows of a warm search cover
_CANDIDATES: Final = 4  # times as many likely classes as are pursued, of which the nearest are chosen
_AT_ONCE: Final = 32  # samples whose gradients of all candidates are held at once
_LEAPS: Final = 10  # points at most by whose gradients samples go towards a target


@register.attack(
    "cascade",
    scenario="evasion",
    access="white-box",
    resolves=(
        "one-step-better",
        "unconverged",
        "saturated-loss",
        "zero-gradients",
        "broken-gradients",
        "misleading-gradients",
        "black-box-better",
        "unbounded-attack-fails",
        "jump-at-boundary",
        "jump-at-clean-inputs",
        "depends-on-batch",
        "depends-on-autograd",
        "probabilities",
    ),
    taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022"),
)
@dataclass(frozen=True, kw_only=True)
class Cascade:
    """Short targeted runs on every sample, long ones and a search without gradients where something still moves.

    First a short run of Auto-PGD on the margin, then one for each of the most likely wrong classes, from starts that
    are turned towards that class. What is not broken goes through rounds: a longer run for each of its most promising
    classes (by the margins of its own runs) from a new start, one from its best point, a few places on the way back to
    the clean input, and a search over windows; the first round has no new starts. After each run towards a class, and
    for a target after the short ones, comes the point that is worst if the model is linear, where that would break the
    sample.

    A sample leaves the rounds when it is broken, or when its last round brought it so little nearer that at this rate
    it would take more than six further rounds, and it is not close to the boundary. What is left within a hundredth of
    its clean margin goes on for twice as many rounds more: one start in several breaks such samples.

    What is decided about a sample depends on that sample alone, never on others in its batch.

    Args:
        steps: Steps of the short runs, at least 1; those of the rounds are three times as long.
        targets: Wrong classes to pursue at most, at least 1. Where there are more, those of four times as many likely
            ones whose logits would overtake the label's soonest if the model were linear.
        promising: Of these, how many are pursued in each round, at least 1.
        rounds: Rounds at most, at least 0; three times as many for the last few.
        queries: Forward passes of the search over windows in each round, at least 0.

    Guarantees:
        Draws are keyed by sample id, class and round, so they are bit-equal in any batch. By default, on an
        affine model of up to 10 classes, a sample is broken if any input of the ball breaks it, up to rounding.

    References:
        Liu et al., CVPR 2022, arXiv:2203.05154 (adaptive starts and giving up, there by statistics over samples); Gowal
        et al., arXiv:1910.09338 (multi-targeted runs); Tashiro et al., NeurIPS 2020, arXiv:2003.06878 (starts that are
        turned in output space); Andriushchenko et al., ECCV 2020, arXiv:1912.00049 (windows); Melamed et al., NeurIPS
        2024, arXiv:2407.02240 (the nearest classes).

    Example:
        >>> Cascade(rounds=2).targets
        9
    """

    steps: int = 15
    targets: int = 9
    promising: int = 2
    rounds: int = 4
    queries: int = 100

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.integer("targets", self.targets, low=1)
        checks.integer("promising", self.promising, low=1)
        checks.integer("rounds", self.rounds, low=0)
        checks.integer("queries", self.queries, low=0)

    def check(self, terms: Terms) -> None:
        """Refuse more targets than there are wrong classes, where more than by default are asked for."""
        checks.targets("targets", self.targets, terms.classes, usual=type(self).targets)

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)` for the samples of this view."""
        if view.ball.radius == 0:
            return view.x.clone()
        return _Hunt(self, view, streams).run()


class _Hunt:
    """One view on its way to a verdict: the best point of each sample, and how far each class was pursued."""

    def __init__(self, attack: Cascade, view: WhiteBox, streams: Streams) -> None:
        self._attack, self._view, self._streams = attack, view, streams
        self._returned = BestSoFar(view.x)
        self._best = view.x.clone()
        logits = view.logits(view.x)
        self._clean = losses.margin(logits, view.y, view.target).abs()
        self._margin = torch.full_like(self._clean, -math.inf)
        if view.target is None:
            wrong, count = logits.scatter(1, view.y[:, None], -math.inf), min(attack.targets, view.classes - 1)
            self._likely = wrong.topk(min(_CANDIDATES * count, view.classes - 1), dim=1).indices
            self._classes = self._likely[:, :count].clone()
        else:
            self._likely = self._classes = view.target[:, None]
        self._gaps = torch.full_like(self._classes, -math.inf, dtype=logits.dtype)
        self._at_work = torch.ones_like(view.y, dtype=torch.bool)

    def run(self) -> Tensor:
        """What is returned."""
        attack = self._attack
        self._climb(self._rows(), None, attack.steps, "margin")
        self._choose()
        for place in range(self._classes.shape[1]):
            rows = self._rows()
            self._climb(rows, torch.full_like(rows, place), attack.steps, place)
        if self._view.target is not None:
            for rows in torch.split(self._rows(), _AT_ONCE):
                self._leaps(rows)
        for number in range((1 + _OVERTIME) * attack.rounds):
            before = self._margin.clone()
            self._round(number)
            self._give_up(before, last=number + 1 >= attack.rounds)
        return self._returned.x

    def _rows(self) -> Tensor:
        """Samples that are not broken and are worth a pass."""
        left = self._returned.left()
        return left[self._at_work[left]]

    def _choose(self) -> None:
        """Where there are more likely classes than are pursued, take those that are nearest if the model is linear."""
        view, count = self._view, self._classes.shape[1]
        if self._likely.shape[1] == count:
            return
        for rows in torch.split(self._rows(), _AT_ONCE):
            likely = self._likely[rows]

            def gaps(logits: Tensor, chosen: Tensor) -> Tensor:
                return logits.gather(1, view.y[chosen, None]) - logits.gather(1, self._likely[chosen])

            value, gradient, _ = view.jacobian(view.x[rows], rows, gaps)
            centre = view.x[rows].repeat_interleave(likely.shape[1], dim=0)
            down = -gradient.flatten(0, 1)
            fall = ((furthest(view.ball, centre, down) - centre) * down).flatten(1).sum(1).reshape(value.shape)
            distance = value / fall.clamp_min(torch.finfo(value.dtype).tiny)  # in what the ball and its bounds allow
            self._classes[rows] = likely.gather(1, distance.argsort(dim=1, stable=True)[:, :count])

    def _round(self, number: int) -> None:
        """From new starts, but for the first round, after which most samples are given up; and from the best points."""
        steps = 3 * self._attack.steps
        for rank in range(min(self._attack.promising, self._classes.shape[1]) if number > 0 else 0):
            rows = self._rows()
            place = self._gaps[rows].argsort(dim=1, descending=True, stable=True)[:, rank]
            self._climb(rows, place, steps, "new", number, rank)
        rows = self._rows()
        place = self._gaps[rows].argmax(1)
        self._climb(rows, place, steps, "warm", number, warm=True)
        self._search(self._rows(), number)

    def _climb(self, rows: Tensor, place: Tensor | None, steps: int, *key: int | str, warm: bool = False) -> None:
        """A run of Auto-PGD of these samples towards the class at this place of their list, or towards any."""
        if len(rows) == 0:
            return
        view = self._view
        aim = view.y[rows] if place is None else self._classes[rows].gather(1, place[:, None])[:, 0]
        towards = place is not None and view.target is None
        start = self._best[rows] if warm else self._start(rows, aim if place is not None else None, *key)
        attack = APGD(steps=steps, loss="margin", targets=int(towards))
        state = Climb(attack, view, view.ball, steps, 0, self._returned, _WARM if warm else 1.0)(start, rows, aim)
        if len(state.rows) == 0:
            return
        if place is not None:
            places = torch.full_like(view.y, 0).scatter(0, rows, place)[state.rows]
            seen = self._gaps[state.rows, places].maximum(state.best_loss)
            self._gaps[state.rows, places] = seen
        self._take(state.rows, state.best, state.best_loss)
        if towards:
            self._leap(state)

    def _leap(self, runs: Runs) -> None:
        """Go where the margin is greatest if the model is linear, where that would break the sample.

        Towards one class that margin is one affine function, whose gradient every run has seen.
        """
        view, rows = self._view, runs.rows
        planes = Planes.through(runs.best, runs.best_loss, runs.best_gradient, view.x[rows])
        x, promised = planes.worst(view.ball, view.x[rows])
        going = promised > 0
        if going.any():
            rows, x = rows[going], x[going]
            self._saw(rows, x, *view.value(x, rows, losses.margin))

    def _leaps(self, rows: Tensor) -> None:
        """The same towards a target, where the margin is the least of several functions and each point shows one.

        Each leap goes by all that were seen, and they end where these promise nothing, which on a linear model is true.
        """
        view, x, planes = self._view, self._best[rows], None
        for _ in range(min(_LEAPS, view.classes)):
            if len(rows) == 0:
                return
            value, gradient, broken = view.value_and_grad(x, rows, losses.margin)
            self._saw(rows, x, value, broken)
            seen = Planes.through(x, value, gradient, view.x[rows])
            planes = seen if planes is None else planes.beside(seen)
            x, promised = planes.worst(view.ball, view.x[rows])
            going = (promised > 0) & ~broken
            rows, x, planes = rows[going], x[going], planes.of(going)

    def _saw(self, rows: Tensor, x: Tensor, margin: Tensor, broken: Tensor) -> None:
        self._returned.keep(x, rows, margin, broken)
        self._take(rows, x, margin)

    def _take(self, rows: Tensor, x: Tensor, margin: Tensor) -> None:
        better = margin > self._margin[rows]
        self._margin[rows[better]], self._best[rows[better]] = margin[better], x[better]

    def _start(self, rows: Tensor, aim: Tensor | None, *key: int | str) -> Tensor:
        """A uniform point of the ball; where a class is pursued, turned a little along a direction of the logits."""
        view, streams = self._view, self._streams.child("start", *key)
        centre, ids = view.x[rows], view.ids[rows]
        x = view.ball.sample(centre, ids, streams)
        if aim is None:
            return x
        weights = 2 * streams.child("turn").uniform(ids, (view.classes,), dtype=x.dtype) - 1
        weights = weights.scatter(1, view.y[rows, None], -1.0).scatter(1, aim[:, None], 1.0)
        for _ in range(_TURN):
            value, gradient, broken = view.value_and_grad(x, rows, _along, target=weights)
            self._returned.keep(x, rows, torch.full_like(value, -math.inf), broken)
            x = view.ball.project(view.ball.step(x, gradient, view.ball.radius, share=0.05), centre)
        return x

    def _search(self, rows: Tensor, number: int) -> None:
        """Draw the best points back and change windows of them, and keep what brings them nearer."""
        if len(rows) == 0 or self._attack.queries == 0:
            return
        self._draw_back(rows, number)
        rows = self._rows()
        part = self._view.take(rows)
        square = Square(queries=self._attack.queries, share=_PATCH)
        begun = Searched(self._best[rows], self._margin[rows], torch.zeros_like(rows, dtype=torch.bool))
        ended = square.search(part, answers_of(part), self._streams.child("search", number), start=begun)
        self._saw(rows, ended.x, ended.margin, ended.broken)

    def _draw_back(self, rows: Tensor, number: int) -> None:
        """Try places on the way from the best points back to the clean inputs.

        A model may do worse there than at the surface of the ball, where most searches end: one that treats values at
        its corners apart, say.
        """
        view, best = self._view, self._best[rows]
        drawn = self._streams.child("back", number).uniform(view.ids[rows], (_BACK,), dtype=best.dtype)
        for place in range(_BACK):
            share = (1 + (place + drawn[:, place]) / _BACK) / 2
            x = torch.lerp(view.x[rows], best, per_sample(share, best))
            self._saw(rows, x, *view.value(x, rows, losses.margin))

    def _give_up(self, before: Tensor, *, last: bool) -> None:
        left = -self._margin
        gained = (self._margin - before).nan_to_num(nan=math.inf)
        hopeless = (left > _HOPE * gained) & (left > _NEAR * self._clean)
        # What fools the network and is rejected is not close to a boundary that the margin shows.
        self._at_work &= left.abs() <= _CLOSE * self._clean if last else ~hopeless


def _along(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """The logits along a direction that is given in place of a target."""
    if target is None:
        return logits.sum(1)
    return (logits * target.clone()).sum(1)  # cloned, because a caller's inference mode would forbid the backward pass
