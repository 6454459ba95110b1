"""What an adversary may change: perturbation balls and integer budgets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core import checks
from robustsuite.core.rounding import inwards, on_grid
from robustsuite.core.rows import per_sample
from robustsuite.core.traits import Traits

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from robustsuite.core.streams import Streams
    from robustsuite.core.traits import Grid

NORMS: Final = ("linf", "l2", "l1")
_ITERATIONS: Final = 60  # of a bracketed Newton search that mostly ends within ten; 60 halvings alone would do
_NO_ROOM: Final = 64  # rounding steps from a bound within which no step leads, so that rounding chooses no coordinate
_SLACK: Final = 1e-3  # of the radius, by which rounding may exceed it
_ORDER: Final = {"linf": math.inf, "l2": 2.0, "l1": 1.0}


def _scaled(size: Tensor, room: Tensor, radius: float | Tensor) -> Tensor:
    """`min(s size, room)` of l2 norm `radius`, one number or `(n, 1)`, rows `(n, D)`.

    Each pass solves the equation with the coordinates that are at their bound held there. From below, that set only
    grows and s only rises, so the passes end at the solution.
    """
    import torch

    held = torch.zeros_like(size, dtype=torch.bool)
    while True:
        left = (radius**2 - room.masked_fill(~held, 0).square().sum(1, keepdim=True)).clamp_min(0)
        free = size.masked_fill(held, 0).square().sum(1, keepdim=True)
        moved = size * (left / free.clamp_min(torch.finfo(size.dtype).tiny)).sqrt().clamp_max(1)
        over = moved >= room
        if not (over & ~held).any():
            return torch.where(held, room, torch.minimum(moved, room))
        held |= over


def _thresholded(size: Tensor, room: Tensor, radius: float | Tensor) -> Tensor:
    """`min(max(size - t, 0), room)` of l1 norm `radius`, one number or `(n, 1)`, rows `(n, D)`.

    Newton's method on t, kept in a bracket.
    """
    import torch

    low = size.new_zeros(len(size), 1)
    high = size.amax(1, keepdim=True)
    slack = 8 * torch.finfo(size.dtype).eps * (radius + high)
    t = low
    for i in range(_ITERATIONS):
        moved = torch.minimum((size - t).clamp_min(0), room)
        total = moved.sum(1, keepdim=True)
        excess = total - radius
        if bool((excess.abs() <= slack).all()):
            break
        low, high = torch.where(excess > 0, t, low), torch.where(excess > 0, high, t)
        slope = ((size > t) & (size - t < room)).sum(1, keepdim=True)
        t = t + excess / slope.clamp_min(1)
        # Where all coordinates are at a bound the slope is zero, and between kinks Newton may crawl: then halve.
        usable = (slope > 0) & (t > low) & (t < high) & (i % 3 < 2)
        t = torch.where(usable, t, (low + high) / 2)
    return moved * (radius / total).clamp_max(1)


@dataclass(frozen=True)
class Ball:
    """A perturbation set: all inputs within `radius` of x in `norm` and within `bounds`.

    Args:
        norm: `linf`, `l2` or `l1`.
        radius: In raw input units, at least 0; text such as "8/255" is read as a quotient.
        bounds: Least and greatest input value; None where inputs are unbounded. A scenario fills in the bounds that the
            data declares.

    Raises:
        RequestError: An unknown norm, a negative radius, or bounds that are no interval.

    Example:
        >>> Ball("linf", "8/255").radius == 8 / 255
        True
    """

    norm: str
    radius: float
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        checks.one_of("norm", self.norm, NORMS)
        object.__setattr__(self, "radius", checks.real("radius", checks.fraction("radius", self.radius), low=0.0))
        if self.bounds is not None:
            low, high = (checks.real("bounds", b) for b in self.bounds)
            if not low < high:
                raise checks.fail("bounds (low, high) with low < high", "bounds", self.bounds, "swap or widen them")
            object.__setattr__(self, "bounds", (low, high))

    def within(self, bounds: tuple[float, float]) -> Ball:
        """The same ball cut by these bounds, where it declares none of its own."""
        return self if self.bounds is not None else replace(self, bounds=bounds)

    @property
    def order(self) -> float:
        """Of the norm: 1, 2 or infinity."""
        return _ORDER[self.norm]

    def scaled(self, radius: float) -> Ball:
        """The same ball with another radius."""
        return replace(self, radius=radius)

    def everywhere(self, shape: tuple[int, ...], bounds: tuple[float, float]) -> Ball:
        """The ball of this norm that holds every input of this shape: it reaches from corner to corner."""
        low, high = self.bounds or bounds
        width = math.prod(shape)
        return replace(self, radius=(high - low) * width ** (1.0 / self.order), bounds=(low, high))

    def tolerance(self, dtype: torch.dtype, width: int = 1) -> float:
        """Slack for rounding, at most a thousandth of the radius.

        float32 `x + r` exceeds r by up to half a unit in the last place of x, and a norm over `width` coordinates sums
        up as many of these. Where that is more than a thousandth of the radius, whoever moves inputs rounds them
        towards the inside, as `project` and `rounded` do.
        """
        return min(self._rounding(dtype, width), _SLACK * self.radius)

    def _rounding(self, dtype: torch.dtype, width: int) -> float:
        import torch

        scale = 1.0 if self.bounds is None else max(abs(self.bounds[0]), abs(self.bounds[1]), 1.0)
        terms = {"linf": 1.0, "l2": math.sqrt(width), "l1": float(width)}[self.norm]
        return (self.radius + scale) * 4.0 * torch.finfo(dtype).eps * terms

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances `(N,)` between `a` and `b`, both `(N, …)`, accumulated in float64."""
        import torch

        difference = (a.double() - b.double()).flatten(1)
        length: Tensor = torch.linalg.vector_norm(difference, ord=self.order, dim=1)
        return length

    def contains(self, moved: Tensor, x: Tensor) -> Tensor:
        """Whether each `moved` row lies in the ball around its `x` and in bounds, up to `tolerance`; bool `(N,)`."""
        slack = self.tolerance(x.dtype, max(1, math.prod(x.shape[1:])))
        inside = self.distance(moved, x) <= self.radius + slack
        if self.bounds is not None:
            flat = moved.flatten(1)
            inside &= (flat.amin(1) >= self.bounds[0]) & (flat.amax(1) <= self.bounds[1])
        return inside

    def project(self, moved: Tensor, x: Tensor, radii: Tensor | None = None) -> Tensor:
        """The nearest point (Euclidean) to each `moved` row within the ball around `x` and the bounds.

        Exact for the intersection, not one projection after the other: the bounds are part of the equation that is
        solved for the multiplier of the norm constraint.

        Args:
            moved: Points to project `(N, …)`.
            x: Centres `(N, …)`, themselves within the bounds.
            radii: A radius for each row `(N,)` in place of the ball's.
        """
        import torch

        if self.radius == 0 and radii is None:
            return x.clone()
        projected = self._projected(moved, x, radii)
        if self._rounding(x.dtype, max(1, math.prod(x.shape[1:]))) <= _SLACK * self.radius:
            return projected
        most = x.new_full((len(x),), self.radius, dtype=torch.float64) if radii is None else radii.double()
        if self.norm == "linf":
            over = (projected.double() - x.double()).abs() > per_sample(most, x)
        else:
            over = per_sample(self.distance(projected, x) > most, x)
        return torch.where(over, torch.nextafter(projected, x), projected)

    def rounded(self, moved: Tensor, x: Tensor, grid: Grid) -> Tensor:
        """What a network is given for `moved`: the nearest inputs on a grid, else the next ones inside.

        Args:
            moved: Inputs `(N, …)`.
            x: Centres `(N, …)`, which lie on the grid.
            grid: A dtype, floating or of integers, for the numbers that it has; or what inputs must keep.

        Returns:
            Inputs in the dtype of `moved`; in the ball wherever `moved` is.
        """
        import torch

        nearest = grid.nearest(moved, x) if isinstance(grid, Traits) else on_grid(moved, grid)
        inside = self.contains(nearest, x)
        inner = grid.inwards(moved, x) if isinstance(grid, Traits) else inwards(moved, x, grid)
        return torch.where(per_sample(inside, x), nearest, inner)

    def _projected(self, moved: Tensor, x: Tensor, radii: Tensor | None) -> Tensor:
        delta = self._clip(moved - x, x)
        if self.norm == "linf":
            if radii is None:
                projected = x + delta.clamp(-self.radius, self.radius)
            else:
                most = per_sample(radii, x)
                projected = x + delta.clamp(-most, most)
            return projected if self.bounds is None else projected.clamp(*self.bounds)
        outside = self._length(delta) > (self.radius if radii is None else radii)
        if outside.any():
            delta = delta.clone()
            radius = self.radius if radii is None else radii[outside][:, None]
            delta[outside] = self._shrink((moved - x)[outside], x[outside], radius)
        projected = x + delta
        return projected if self.bounds is None else projected.clamp(*self.bounds)

    def _clip(self, delta: Tensor, x: Tensor) -> Tensor:
        if self.bounds is None:
            return delta
        return delta.clamp(self.bounds[0] - x, self.bounds[1] - x)

    def _length(self, delta: Tensor) -> Tensor:
        import torch

        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), ord=self.order, dim=1)
        return length

    def _shrink(self, delta: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        """Solve for the multiplier of the norm constraint, row by row, with the bounds inside the equation."""
        import torch

        size = delta.abs().flatten(1)
        room = torch.full_like(size, math.inf)
        if self.bounds is not None:
            room = torch.where(delta > 0, self.bounds[1] - x, x - self.bounds[0]).flatten(1)
        shrunk = _scaled(size, room, radius) if self.norm == "l2" else _thresholded(size, room, radius)
        return delta.sign() * shrunk.reshape(delta.shape)

    def step(self, x: Tensor, direction: Tensor, length: float | Tensor, *, share: float = 0.0) -> Tensor:
        """Move along the steepest ascent of `direction` in this norm.

        Args:
            x: Where to step from `(N, …)`; in l1, coordinates already at the bound they would leave are skipped.
            direction: Gradients `(N, …)`; a row of zeros does not move.
            length: Norm of the step, one number or `(N,)`.
            share: In l1, the share of coordinates over which the step is spread, in [0, 1]; 0 is the single steepest
                (the exact dual of l1; a share follows SLIDE, Tramer and Boneh, arXiv:1904.13000).

        Returns:
            The moved points `(N, …)`, not yet projected.
        """
        import torch

        size = length if not isinstance(length, torch.Tensor) else per_sample(length, x)
        if self.norm == "linf":
            return x + size * direction.sign()
        if self.norm == "l2":
            # Squares of the tiny gradients of a saturated model underflow; scaled by their greatest entry they do not.
            scale = direction.flatten(1).abs().amax(1).clamp_min(torch.finfo(direction.dtype).tiny)
            unit = direction / per_sample(scale, x)
            return x + size * unit / per_sample(self._length(unit).clamp_min(torch.finfo(unit.dtype).tiny), x)
        return x + size * self._sparse_sign(x, direction, share)

    def _sparse_sign(self, x: Tensor, direction: Tensor, share: float) -> Tensor:
        import torch

        flat = direction.flatten(1)
        if self.bounds is not None:
            here, (low, high) = x.flatten(1), self.bounds
            room = _NO_ROOM * torch.finfo(x.dtype).eps * max(1.0, abs(low), abs(high))
            stuck = ((flat > 0) & (here >= high - room)) | ((flat < 0) & (here <= low + room))
            flat = flat.masked_fill(stuck, 0)
        count = max(1, round(share * flat.shape[1]))
        chosen = flat.abs().topk(count, dim=1).indices
        sign = torch.zeros_like(flat).scatter(1, chosen, flat.gather(1, chosen).sign())
        return (sign / sign.abs().sum(1, keepdim=True).clamp_min(1)).reshape(direction.shape)

    def sample(self, x: Tensor, ids: Tensor, streams: Streams) -> Tensor:
        """Uniform points of the ball around each `x` (before the cut by the bounds), projected.

        linf: independent coordinates. l2: a normal direction with radius r u^(1/D). l1: exponential coordinates with
        random signs (Calafiore et al., 1998).

        Args:
            x: Centres `(N, …)`.
            ids: Sample ids `(N,)` that key the draws.
            streams: The stream to draw from.
        """
        import torch

        shape = x.shape[1:]
        width = math.prod(shape)
        if self.norm == "linf":
            noise = (2 * streams.uniform(ids, shape, dtype=x.dtype) - 1) * self.radius
            return self.project(x + noise, x)
        if self.norm == "l2":
            raw = streams.normal(ids, shape, dtype=x.dtype)
        else:
            magnitude = -torch.log1p(-streams.child("magnitude").uniform(ids, shape, dtype=torch.float64))
            sign = (streams.child("sign").uniform(ids, shape) < 0.5).double() * 2 - 1
            raw = (magnitude * sign).to(x.dtype)
        depth = streams.child("depth").uniform(ids, (1,), dtype=torch.float64)[:, 0] ** (1.0 / width)
        size = (self.radius * depth / self._length(raw).double().clamp_min(1e-30)).to(x.dtype)
        return self.project(x + raw * per_sample(size, x), x)


BallLike = Ball | tuple[Any, ...]
"""A `Ball`, or what makes one: `("linf", "8/255")`, with bounds behind the radius where they are declared."""


def as_ball(given: BallLike, name: str = "ball") -> Ball:
    """A ball from whatever a user writes for one.

    Args:
        given: A `Ball`, `(norm, radius)` or `(norm, radius, bounds)`; the radius as in `Ball`.
        name: What the user calls it.

    Raises:
        RequestError: Neither, or an impossible ball.

    Example:
        >>> as_ball(("linf", "8/255")) == Ball("linf", 8 / 255)
        True
    """
    if isinstance(given, Ball):
        return given
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3) or not _typed(*given):
        raise checks.fail(
            "(norm, radius) or a Ball", name, given, "write ('linf', 8 / 255) or rs.Ball('linf', 8 / 255)"
        )
    return Ball(*given)


def _typed(norm: object, _: object, bounds: object = None) -> bool:
    return isinstance(norm, str) and (bounds is None or (isinstance(bounds, (tuple, list)) and len(bounds) == 2))


@dataclass(frozen=True, kw_only=True)
class Threat:
    """The threat model of a suite: what every adversary may do, set by nobody but its author.

    Args:
        ball: Where adversarial inputs must lie: a `Ball` or `(norm, radius)`.
        goal: `untargeted` or `targeted`.
        target: How targets are chosen: `next`, `random` or `least-likely`; needed for a targeted goal.
        query_budget: Queries per sample for an oracle; None for no limit.
    """

    ball: Ball
    goal: str = "untargeted"
    target: str | None = None
    query_budget: int | None = None

    def __post_init__(self) -> None:
        checks.settle(self)
        object.__setattr__(self, "ball", as_ball(self.ball))


def poison_budget(fraction: float, n: int) -> int:
    """How many of `n` training samples the fraction allows, rounded down; at least 1 where the fraction is positive.

    Raises:
        RequestError: The fraction is outside [0, 1].
    """
    share = checks.real("fraction", fraction, low=0.0, high=1.0)
    return max(1, math.floor(share * n + 1e-9)) if share > 0 else 0
