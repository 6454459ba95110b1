"""Carlini and Wagner's attack: descend the distance plus a constant times the margin, and search for the constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple, Self

import torch
from torch import Tensor

from robustsuite.access import ValueAndGrad, WhiteBox
from robustsuite.attacks.evasion import minimum_norm as mn
from robustsuite.core import Streams, checks
from robustsuite.core.rows import per_sample
from robustsuite.plugins import register

_FIRST, _SECOND = 0.9, 0.999  # share that Adam's moments keep
_LAST_STEP: Final = 0.01  # of a round, over its first one
_PATIENCE: Final = 20  # steps without a smaller loss, after which a round that has broken nothing ends
_GROWTH: Final = 10.0  # of a constant that was too small, as in the paper
_EXTRA: Final = 6  # rounds more for samples that were never broken
_GAIN: Final = 0.005  # share of the distance that a round must gain where its constant was enough


@register.attack(
    "carlini-wagner", scenario="evasion", access="white-box", taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022")
)
@dataclass(frozen=True, kw_only=True)
class CarliniWagner:
    """Descend the squared distance plus a constant times what is missing of the margin, for a series of constants.

    Each sample has its own constant, step length and end. The margin is measured by how far the boundary lies by its
    linearisation, so that neither the scale of logits nor a steep or flat place matters, and a network that is linear
    needs twice the distance as its constant. A round of steps tells whether a constant is enough: if so, a smaller one
    is tried, else a greater one, ten times as great until one was enough. Rounds start from the nearest success. One
    that gets nowhere is cut short, and a sample is done when a constant that is enough no longer gains.

    Steps are Adam's with one second moment a sample, so that they keep the direction of the slope, and get shorter on a
    half cosine. They are projected into the bounds in place of a change of variables: where inputs lie at a bound, the
    slope of tanh vanishes, and it takes hundreds of steps to leave. In the end the line from the clean input to the
    nearest success is searched.

    Args:
        steps: Steps of a round at most, at least 1.
        rounds: Constants that are tried, at least 1; up to 6 more where none was enough.
        step_size: Length of a round's first step over the distance of the linearised boundary or of the nearest
            success, positive.
        first_constant: The first constant over the one that a linear network needs, positive.
        search: Forward passes of the search along the line, at least 0.

    References:
        Carlini and Wagner, S&P 2017, arXiv:1608.04644; projected steps: section V-B.

    Example:
        >>> CarliniWagner(steps=50).norms
        ('l2',)
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    minimum_norm: ClassVar[bool] = True

    steps: int = 75
    rounds: int = 3
    step_size: float = 1.0
    first_constant: float = 2.0
    search: int = 3

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.integer("rounds", self.rounds, low=1)
        checks.real("step_size", self.step_size, low=0.0, open_low=True)
        checks.real("first_constant", self.first_constant, low=0.0, open_low=True)
        checks.integer("search", self.search, low=0)

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:  # noqa: ARG002  # nothing is drawn
        """Adversarial inputs `(N, …)` for the samples of this view.

        Raises:
            RequestError: The view's norm is not l2.
        """
        view = mn.playable(self, view)
        nearest = mn.Nearest(view)
        if view.ball.radius == 0:
            return nearest.handed_in()
        rows = torch.arange(len(view.y), device=view.x.device)
        seen = view.value_and_grad(view.x, rows, mn.margin)
        clean = seen.value
        nearest.offer(view.x, rows, seen)
        searches = self._first(view, rows, seen).only(nearest.open(rows))
        while len(searches.rows) > 0:
            seen = view.value_and_grad(searches.x, searches.rows, mn.margin)
            nearest.offer(searches.x, searches.rows, seen)
            searches = self._ended(nearest, self._moved(view, searches, seen))
            searches = searches.only(nearest.open(searches.rows) & (searches.left > 0))
        nearest.tighten(clean, self.search)
        return nearest.handed_in()

    def _first(self, view: WhiteBox, rows: Tensor, seen: ValueAndGrad) -> _Searches:
        """Where each sample starts, by the slope at the clean input."""
        far, zero = mn.linearised(view, seen), torch.zeros_like(seen.value)
        return _Searches(
            rows=rows,
            x=view.x,
            first=torch.zeros_like(view.x),
            second=zero,
            constant=2 * self.first_constant * far,
            low=zero,
            high=zero + torch.inf,
            length=far,
            step=torch.zeros_like(rows),
            left=torch.full_like(rows, self.rounds + _EXTRA),
            broken=torch.zeros_like(seen.broken),
            enough=torch.zeros_like(seen.broken),
            least=zero + torch.inf,
            stalled=torch.zeros_like(rows),
            distance=zero + torch.inf,
        )

    def _moved(self, view: WhiteBox, at: _Searches, seen: ValueAndGrad) -> _Searches:
        """One step of Adam, and what it tells of the round."""
        x, way, missing = at.x, at.x - view.x[at.rows], 2 * mn.surely(view) - seen.value
        outside = mn.linearised(view, seen._replace(value=missing.clamp_min(0)))
        loss = way.flatten(1).square().sum(1) + at.constant * outside
        slope = 2 * way - per_sample(at.constant * (missing > 0), x) * mn.unit(seen.gradient)
        first = torch.lerp(slope, at.first, _FIRST)
        second = torch.lerp(slope.flatten(1).square().sum(1), at.second, _SECOND)
        count = (at.step + 1).to(torch.float32)  # to the power of integers, a scalar has the default dtype
        scale = (second / (1 - _SECOND**count)).sqrt().clamp_min(torch.finfo(x.dtype).tiny) * (1 - _FIRST**count)
        fade = _LAST_STEP + (1 - _LAST_STEP) * (1 + torch.cos(torch.pi * at.step.to(torch.float32) / self.steps)) / 2
        rate = (self.step_size * fade * at.length).to(x.dtype)
        moved = x - per_sample(rate, x) * (first / per_sample(scale, x))  # zero where both are, and never NaN
        return at._replace(
            x=mn.clip(moved, view.ball),
            first=first,
            second=second,
            step=count,
            broken=at.broken | seen.broken,
            enough=at.enough | (seen.broken & (2 * count > self.steps)),
            least=torch.minimum(at.least, loss),
            stalled=torch.where(loss < at.least, 0, at.stalled + 1),
        )

    def _ended(self, nearest: mn.Nearest, at: _Searches) -> _Searches:
        """The same, where rounds that are over gave way to the next, with another constant."""
        over = (at.step >= self.steps) | ((at.stalled >= _PATIENCE) & ~at.broken)
        if not over.any():
            return at
        found, distance = nearest.found(at.rows), nearest.distance[at.rows].to(at.x.dtype)
        high = torch.where(at.enough, at.constant, at.high)
        low = torch.where(at.enough, at.low, at.constant)
        between = (low.maximum(high / _GROWTH) * high).sqrt()
        constant = torch.where(high.isinf(), low * _GROWTH, between)
        done = at.enough & (distance > (1 - _GAIN) * at.distance)
        left = (at.left - 1).minimum(torch.where(found, self.rounds - 1, at.left))
        fresh = at._replace(
            x=torch.where(per_sample(found, at.x), nearest.x[at.rows], at.x),
            first=torch.zeros_like(at.first),
            second=torch.zeros_like(at.second),
            constant=constant,
            low=low,
            high=high,
            length=torch.where(found, distance, 2 * at.length),
            step=torch.zeros_like(at.step),
            left=torch.where(done, 0, left),
            broken=torch.zeros_like(at.broken),
            enough=torch.zeros_like(at.enough),
            least=torch.full_like(at.least, torch.inf),
            stalled=torch.zeros_like(at.stalled),
            distance=distance,
        )
        return _Searches(*(torch.where(per_sample(over, new), new, old) for new, old in zip(fresh, at, strict=True)))


class _Searches(NamedTuple):
    """Where the search of each sample stands; every part `(n,)` or `(n, …)`."""

    rows: Tensor
    x: Tensor
    first: Tensor  # moment of the slope
    second: Tensor  # moment of its squared length
    constant: Tensor
    low: Tensor  # the greatest constant that was too small
    high: Tensor  # the smallest one that was enough
    length: Tensor  # of a round's first step, over `step_size`
    step: Tensor  # of the round
    left: Tensor  # rounds, this one included
    broken: Tensor  # in this round
    enough: Tensor  # the same in its later half
    least: Tensor  # loss of the round
    stalled: Tensor  # steps since then
    distance: Tensor  # of the nearest success before the round

    def only(self, rows: Tensor) -> Self:
        """The searches of some of the rows."""
        return type(self)(*(part[rows] for part in self))
