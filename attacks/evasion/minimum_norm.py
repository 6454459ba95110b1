"""What minimum-norm attacks share: the nearest success so far, exact steps onto a hyperplane, a search along a line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from robustsuite.access import Jacobian, Value, ValueAndGrad, WhiteBox
from robustsuite.core import Ball, checks, losses
from robustsuite.core.isolation import differentiable
from robustsuite.core.rows import per_sample

_SURE: Final = 64  # rounding steps of the greatest logit, from which on no other batch turns a success
_COPY: Final = 2**11  # the same where a faster copy answers: the engine takes none that is farther off
_DUAL: Final = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}
_BEYOND: Final = (1e-5, 1e-4, 1e-3)  # of its distance, by which a success is moved on where rounding may decide it
_NONE: Final = 4  # rank of a sample for which nothing was found


def margin(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """By how much the goal is reached, as a share of the greatest logit; negative where it is not.

    The share is held still, so that gradients have the direction of the plain margin's, and neither they nor what is
    concluded from them depends on the scale of the logits.
    """
    return losses.margin(logits, y, target) / size(logits)


def size(logits: Tensor) -> Tensor:
    """Greatest logit in absolute value `(n,)`, without a graph and never zero."""
    return logits.detach().abs().amax(1).clamp_min(torch.finfo(logits.dtype).tiny)


def by_cross_entropy(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """The value of `margin` with the gradient of the cross-entropy."""
    rising = losses.cross_entropy(logits, y, target)
    return margin(logits, y, target).detach() + (rising - rising.detach())


def towards(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """By how much one wrong class is ahead of the true one, as a share of the greatest logit."""
    return losses.margin_towards(logits, y, target) / size(logits)


def surely(view: WhiteBox) -> float:
    """The `margin` from which on a success holds in any batch, and on the original of a copy: rounding is smaller."""
    copied = view.engine is not None and view.engine.copied
    return (_COPY if copied else _SURE) * torch.finfo(view.x.dtype).eps


def unit(directions: Tensor) -> Tensor:
    """Directions `(n, …)` of l2 length 1; rows of zeros stay."""
    peak = directions.flatten(1).abs().amax(1).clamp_min(torch.finfo(directions.dtype).tiny)
    scaled = directions / per_sample(peak, directions)  # because squares of tiny gradients underflow
    length = torch.linalg.vector_norm(scaled.flatten(1), dim=1).clamp_min(torch.finfo(directions.dtype).tiny)
    return scaled / per_sample(length, directions)


def clip(x: Tensor, ball: Ball) -> Tensor:
    """Inputs within the ball's bounds."""
    return x if ball.bounds is None else x.clamp(*ball.bounds)


def width(ball: Ball) -> float:
    """The range of one input; 1 where inputs are unbounded."""
    return 1.0 if ball.bounds is None else ball.bounds[1] - ball.bounds[0]


def playable(attack: Any, view: WhiteBox) -> WhiteBox:
    """The view as an attack near the boundary uses it, where verdicts are verified in the end alone.

    Raises:
        RequestError: The attack has not this norm; the norms that it has.
    """
    checks.one_of("norm", view.ball.norm, attack.norms)
    return replace(view, verify=False)


class Nearest:
    """The nearest success found so far, one point a sample; the clean input where there is none.

    A success that only rounding may have decided gives way to a sure one, and one outside of the ball to one inside.

    Args:
        view: Whose samples are attacked.
    """

    def __init__(self, view: WhiteBox) -> None:
        self._view = view
        self._rank = torch.full((len(view.y),), _NONE, device=view.x.device)
        self._reach = view.ball.radius + view.ball.tolerance(view.x.dtype)
        self._surely = surely(view)
        self.x = view.x.clone()
        self.distance = torch.full((len(view.y),), float("inf"), dtype=torch.float64, device=view.x.device)
        self.margin = torch.zeros(len(view.y), dtype=view.x.dtype, device=view.x.device)

    def offer(self, x: Tensor, rows: Tensor, seen: Value | ValueAndGrad) -> Tensor:
        """Take in points `(n, …)` of samples `rows (n,)`, each sample once, whose loss was `margin`.

        Returns:
            Which of them are now the nearest of their sample; bool `(n,)`.
        """
        return self.take(x, rows, seen.broken, seen.value)

    def take(self, x: Tensor, rows: Tensor, broken: Tensor, margins: Tensor) -> Tensor:
        """The same, told apart."""
        better = torch.zeros_like(broken)
        if not broken.any():
            return better
        x, rows, margins = x[broken], rows[broken], margins[broken]
        distance = self._view.ball.distance(x, self._view.x[rows])
        rank = (margins <= self._surely).long() + 2 * (distance > self._reach).long()
        wins = (rank < self._rank[rows]) | ((rank == self._rank[rows]) & (distance < self.distance[rows]))
        won = rows[wins]
        self.x[won], self.distance[won], self._rank[won] = x[wins], distance[wins], rank[wins]
        self.margin[won] = margins[wins].to(self.margin.dtype)
        better[broken.nonzero()[:, 0][wins]] = True
        return better

    def found(self, rows: Tensor) -> Tensor:
        """For which of these samples there is a success, in the ball or not; bool `(n,)`."""
        return self._rank[rows] < _NONE

    def open(self, rows: Tensor) -> Tensor:
        """Which of these samples need further passes; bool `(n,)`.

        All but those that were broken before anything moved, and, where distances are not judged, those with a success
        in the ball.
        """
        if self._view.minimum_norm:
            return self.distance[rows] > 0
        return self._rank[rows] > 1

    def handed_in(self) -> Tensor:
        """The artefact `(N, …)`: each sample's nearest success where it lies in the ball, else the clean input.

        A success that only rounding may have decided is moved on a little, until it is sure. Where that fails, a
        forward pass asks the model itself.
        """
        for share in _BEYOND:
            rows = self._doubtful()
            if len(rows) == 0:
                break
            x = clip(torch.lerp(self._view.x[rows], self.x[rows], 1 + share), self._view.ball)
            self.offer(x, rows, self._view.value(x, rows, margin))
        kept = self._view.ball.contains(self.x, self._view.x)
        doubtful = self._doubtful()
        doubtful = doubtful[kept[doubtful]]
        if len(doubtful) > 0:
            kept[doubtful] = self._view.broken(self.x[doubtful], doubtful)
        return torch.where(per_sample(kept, self.x), self.x, self._view.x)

    def _doubtful(self) -> Tensor:
        """Samples `(n,)` whose success only rounding may have decided."""
        return ((self._rank == 1) | (self._rank == 3)).nonzero()[:, 0]

    def tighten(self, clean: Tensor | None, steps: int) -> None:
        """Search the line from each clean input to its nearest success for a nearer one; a forward pass a step.

        False position with the weights of Illinois, because the margin bends little along so short a line.

        Args:
            clean: `margin` at the clean inputs `(N,)`.
            steps: Forward passes a sample at most.
        """
        everything = torch.arange(len(self.x), device=self.x.device)
        rows = everything[self.found(everything) & (self.distance > 0) & self.open(everything)]
        if clean is None or len(rows) == 0 or steps == 0:
            return
        view, end, aim = self._view, self.x[rows], 2 * self._surely
        low, high = torch.zeros_like(clean[rows]), torch.ones_like(clean[rows])
        below, above = clean[rows].clamp_max(-aim), self.margin[rows].clamp_min(aim)
        for _ in range(steps):
            share = ((aim - below) / (above - below).clamp_min(aim)).clamp(0.02, 0.98)
            t = low + (high - low) * share
            x = clip(torch.lerp(view.x[rows], end, per_sample(t, end)), view.ball)
            seen = view.value(x, rows, margin)
            self.offer(x, rows, seen)
            past = seen.broken & (seen.value > self._surely)
            # Where the same end moved as before, the value at the other one is halved.
            low, high = torch.where(past, low, t), torch.where(past, t, high)
            below = torch.where(past, below / 2, seen.value.clamp_max(-aim))
            above = torch.where(past, seen.value.clamp_min(aim), above / 2)


def steepness(slope: Tensor, ball: Ball) -> Tensor:
    """How fast a linear function rises along its steepest direction in the ball's norm: the dual norm `(n,)`."""
    length: Tensor = torch.linalg.vector_norm(slope.flatten(1), ord=_DUAL[ball.norm], dim=1)
    return length.clamp_min(torch.finfo(slope.dtype).tiny)


def linearised(view: WhiteBox, seen: ValueAndGrad) -> Tensor:
    """How far the boundary lies by its linearisation `(n,)`; at most as far as the bounds allow."""
    far = seen.value.abs() / steepness(seen.gradient, view.ball)
    most = 1e6 if view.ball.bounds is None else view.ball.everywhere(tuple(view.x.shape[1:]), view.ball.bounds).radius
    return far.nan_to_num(nan=most, posinf=most).clamp_max(most)


def onto_plane(x: Tensor, slope: Tensor, rise: Tensor, ball: Ball) -> Tensor:
    """The nearest point, in the ball's norm (linf or l2), at which a linear function is greater by `rise` `(n,)`."""
    steep = steepness(slope, ball)
    if ball.norm == "linf":
        return x + per_sample(rise / steep, x) * slope.sign()
    unit = slope / per_sample(steep, x)
    return x + per_sample(rise / steep, x) * unit


def onto(x: Tensor, slope: Tensor, rise: Tensor, ball: Ball) -> Tensor:
    """The least step, in the ball's norm, that changes a linear function by `rise` and stays within the bounds.

    Exact. Each coordinate has room up to its bound. In linf and l2 all that have room left move by one factor times 1
    or their slope; the factor is solved for with those held that it carries to their bound, which only become more, so
    that the passes end. In l1 the steepest move to their bounds, one after the other, until it is enough. Where even
    the farthest corner changes the function by less, the step leads there.

    Args:
        x: Points within the bounds `(n, …)`.
        slope: Of the linear function `(n, …)`; a row of zeros does not move.
        rise: By how much it shall change `(n,)`.
        ball: Norm and bounds.

    Returns:
        Steps `(n, …)`.

    References:
        Croce and Hein, ICML 2020, arXiv:1907.02044, section 3.
    """
    signed = (slope * per_sample(rise.sign(), slope)).flatten(1)
    rate = signed.abs()
    peak = rate.amax(1, keepdim=True).clamp_min(torch.finfo(rate.dtype).tiny)
    rate, wanted = rate / peak, (rise.abs() / peak[:, 0])[:, None]
    room = torch.full_like(rate, float("inf"))
    if ball.bounds is not None:
        here = x.flatten(1)
        room = torch.where(signed > 0, ball.bounds[1] - here, here - ball.bounds[0])
    still = rate == 0
    room = room.masked_fill(still, 0)
    length = _steepest_first(rate, room, wanted) if ball.norm == "l1" else _together(rate, room, wanted, ball.norm)
    return (length * signed.sign()).reshape(x.shape)


def _together(rate: Tensor, room: Tensor, wanted: Tensor, norm: str) -> Tensor:
    speed = torch.ones_like(rate) if norm == "linf" else rate
    gain, full = rate * speed, rate * room
    held = room <= 0
    while True:
        left = (wanted - full.masked_fill(~held, 0).sum(1, keepdim=True)).clamp_min(0)
        among = gain.masked_fill(held, 0).sum(1, keepdim=True)
        factor = left / among.clamp_min(torch.finfo(rate.dtype).tiny)
        moved = factor * speed
        over = (moved >= room) & ~held
        if not over.any():
            return torch.where(held, room, moved)
        held |= over


def _steepest_first(rate: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    count = min(rate.shape[1], 64)
    while True:
        top, order = rate.topk(count, dim=1)
        space = room.gather(1, order)
        worth = (top * space).nan_to_num(nan=0.0)
        total = worth.cumsum(1)
        if count == rate.shape[1] or bool((total[:, -1:] >= wanted).all()):
            break
        count = min(rate.shape[1], count * 8)
    before = torch.cat([torch.zeros_like(wanted), total[:, :-1]], 1)
    length = ((wanted - before).clamp_min(0) / top.clamp_min(torch.finfo(rate.dtype).tiny)).minimum(space)
    return torch.zeros_like(rate).scatter(1, order, length)


class Boundaries:
    """The linearised boundaries to several classes, of which the nearest are followed.

    For a targeted goal there is one: where the target overtakes the greatest other logit.

    Args:
        view: Whose samples are attacked.
        candidates: Most likely wrong classes that the first pass looks at.
        followed: How many of them later passes look at: those that are nearest by the slopes seen last.
    """

    def __init__(self, view: WhiteBox, candidates: int, followed: int) -> None:
        self._view, self._followed = view, followed
        self._count = 1 if view.target is not None else max(1, min(candidates, view.classes - 1))
        with differentiable():  # what is made in a caller's inference mode could not be written to in a pass
            self._classes = torch.full((len(view.y), self._count), -1, device=view.x.device)
            self._steepness = torch.zeros(len(view.y), self._count, dtype=view.x.dtype, device=view.x.device)
            self._chosen = torch.zeros(len(view.y), self._count, dtype=torch.int64, device=view.x.device)

    def gaps(self, logits: Tensor, rows: Tensor) -> Tensor:
        """By how much each boundary that is looked at is crossed, `(n, k)`, in units of `margin`."""
        y = self._view.y[rows]
        if self._view.target is not None:
            return margin(logits, y, self._view.target[rows])[:, None]
        if int(self._classes[rows[0], 0]) < 0:  # the first pass
            others = logits.detach().scatter(1, y[:, None], -torch.inf)
            self._classes[rows] = others.topk(self._count, dim=1).indices
            chosen = torch.arange(self._count, device=rows.device).expand(len(rows), -1)
        else:
            told = self._differences(logits, y, self._classes[rows]).detach()
            count = min(self._followed, self._count)
            chosen = (-told / self._steepness[rows]).topk(count, dim=1, largest=False).indices
        self._chosen[rows, : chosen.shape[1]] = chosen
        return self._differences(logits, y, self._classes[rows].gather(1, chosen))

    @staticmethod
    def _differences(logits: Tensor, y: Tensor, classes: Tensor) -> Tensor:
        return (logits.gather(1, classes) - logits.gather(1, y[:, None])) / size(logits)[:, None]

    def closest(self, rows: Tensor, seen: Jacobian) -> tuple[Tensor, Tensor]:
        """Gap `(n,)` and slope `(n, …)` of the boundary that is nearest by its linearisation.

        Args:
            rows: Samples `(n,)`.
            seen: What `jacobian` said of `gaps`.
        """
        ball, k = self._view.ball, seen.values.shape[1]
        steep = steepness(seen.gradients.flatten(0, 1), ball).reshape(-1, k)
        nearest = (seen.values.abs() / steep).argmin(1)
        unbroken = ~seen.broken
        places = self._chosen[rows, :k]
        self._steepness[rows[unbroken, None], places[unbroken]] = steep[unbroken]
        row = torch.arange(len(rows), device=rows.device)
        return seen.values[row, nearest], seen.gradients[row, nearest]
