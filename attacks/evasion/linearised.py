"""Where in a ball a linear model is worst off: what a gradient, or several, promise without a further pass."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from robustsuite.core import Ball

_DUAL: Final = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
_NO_ROOM: Final = 1e-9  # of the radius, up to which a coordinate counts as fixed
_CLOSED: Final = 1e-9  # of what the steepest function may rise by, a gap that is as good as none
_STEPS: Final = 50  # of Newton's method at most; mostly fifteen to thirty are taken
_DAMPED: Final = 1e-3  # of the mean square of all slopes, which holds what nothing else holds near where it is
_CENTRED: Final = 0.1  # of the mean product of slack and multiplier, above which all are balanced
_SHRUNK: Final = (0.6, 0.1)  # the gap that a step aims at, in present ones, where they are not and where they are
_SHORT: Final = 0.95  # of the way to the nearest constraint


def furthest(ball: Ball, x: Tensor, gradient: Tensor) -> Tensor:
    """The point of the ball around each `x (n, …)`, and of its bounds, that is furthest along `gradient (n, …)`."""
    if ball.norm != "l1":
        # From so far away the nearest point is the furthest along, up to rounding.
        return ball.project(ball.step(x, gradient, ball.radius / torch.finfo(x.dtype).eps), x)
    size, room = gradient.abs().flatten(1), torch.full_like(x, ball.radius)
    if ball.bounds is not None:
        room = torch.where(gradient > 0, ball.bounds[1] - x, x - ball.bounds[0]).clamp_max(ball.radius)
    # The steepest coordinates first, each as far as it goes.
    order = size.argsort(dim=1, descending=True, stable=True)
    spent = room.flatten(1).gather(1, order).cumsum(1).clamp_max(ball.radius)
    moved = torch.zeros_like(size).scatter(1, order, spent.diff(dim=1, prepend=torch.zeros_like(spent[:, :1])))
    return ball.project(x + gradient.sign() * moved.reshape(x.shape), x)


class Planes(NamedTuple):
    """Affine functions of the change of each input: `value (n, k)` where nothing is changed, `gradient (n, k, …)`."""

    value: Tensor
    gradient: Tensor

    @classmethod
    def through(cls, x: Tensor, value: Tensor, gradient: Tensor, centre: Tensor) -> Planes:
        """One for each input: what is seen at `x (n, …)`, `value (n,)` and `gradient (n, …)`, seen from `centre`."""
        return cls((value - (gradient * (x - centre)).flatten(1).sum(1))[:, None], gradient[:, None])

    def of(self, rows: Tensor) -> Planes:
        """Those of some of the inputs."""
        return Planes(*(part[rows] for part in self))

    def beside(self, other: Planes) -> Planes:
        """Both together, for the same inputs."""
        return Planes(*(torch.cat(parts, dim=1) for parts in zip(self, other, strict=True)))

    def worst(self, ball: Ball, x: Tensor) -> tuple[Tensor, Tensor]:
        """The point of the ball around each `x (n, …)` where the least of its functions is greatest, and that least."""
        several = self.value.shape[1] > 1
        moved = _least_raised(ball, x, self) if several else furthest(ball, x, self.gradient[:, 0])
        change = (moved - x).flatten(1)
        return moved, (self.value + torch.einsum("nkd,nd->nk", self.gradient.flatten(2), change)).amin(1)


def _least_raised(ball: Ball, x: Tensor, planes: Planes) -> Tensor:
    """Where the least of several functions is greatest, with each change in radii and the rises in the greatest one."""
    slopes, (low, high) = ball.radius * planes.gradient.double().flatten(2), _room(ball, x)
    if ball.norm == "l1":  # rises and falls, each a variable of its own, so that their sum is the norm
        slopes, low, high = (
            torch.cat([slopes, -slopes], dim=2),
            torch.zeros_like(slopes[:, 0]).repeat(1, 2),
            torch.cat([high, -low], dim=1),
        )
    live = high - low > _NO_ROOM
    high, slopes = torch.where(live, high, low + 1), slopes * live[:, None]
    scale = torch.linalg.vector_norm(slopes, ord=_DUAL[ball.norm], dim=2).amax(1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    change = _maximin(planes.value.double() / scale, slopes / scale[:, :, None], low, high, live.double(), ball.order)
    if ball.norm == "l1":
        rise, fall = change.chunk(2, dim=1)
        change = rise - fall
    return ball.project(x + (ball.radius * change).reshape(x.shape).to(x.dtype), x)


def _maximin(values: Tensor, slopes: Tensor, low: Tensor, high: Tensor, live: Tensor, order: float) -> Tensor:
    """Maximise t subject to `values + slopes u >= t`, `low <= u <= high` and one limit on all of `u (n, d)`.

    A primal-dual interior-point method. The limit is `sum u <= 1` for order 1, `sum u^2 <= 1` for order 2, and none
    for infinity. All other constraints hold one variable each, so that a step is a system of equations with as many
    unknowns as there are functions and two more.

    References:
        Boyd and Vandenberghe, Convex Optimization, 2004, section 11.7.
    """
    k = values.shape[1]
    u = live * (low + high) / 2
    if order < math.inf:
        u = u * (0.5 / torch.linalg.vector_norm(u, ord=order, dim=1, keepdim=True).clamp_min(0.5))
    u = torch.where(live > 0, u, (low + high) / 2)
    t = (values + _dot(slopes, u)).amin(1, keepdim=True) - 1
    spent = torch.zeros_like(t) if order == math.inf else (live * u).pow(order).sum(1, keepdim=True)
    # Without it the equations lose all digits where few variables lie between their bounds; the solution is the same.
    damping = _DAMPED * slopes.square().mean((1, 2))[:, None]
    # Slacks and multipliers of the functions, the limit, the lower and the upper bounds.
    slack = torch.cat([values + _dot(slopes, u) - t, 1 - spent, u - low, high - u], dim=1)
    force = 0.1 / slack
    for _ in range(_STEPS):
        products = force * slack
        gap = products.sum(1, keepdim=True)
        going = gap > _CLOSED * (1 + t.abs())
        if not going.any():
            break
        mean = gap / slack.shape[1]
        aim = mean * torch.where(products.amin(1, keepdim=True) < _CENTRED * mean, *_SHRUNK)
        normal = {1.0: -live, 2.0: -2 * live * u, math.inf: 0 * live}[order]
        bend = damping + (2 * live * force[:, k : k + 1] if order == 2 else 0)
        du, dt = _newton(slopes, normal, bend, slack, force, aim)
        ds = torch.cat([_dot(slopes, du) - dt, (normal * du).sum(1, keepdim=True), du, -du], dim=1)
        df = aim / slack - force / slack * ds - force
        step = _SHORT / torch.maximum(-ds / slack, -df / force).amax(1, keepdim=True).clamp_min(_SHORT)
        if order == 2:  # here the slack is 1 - sum u^2, which bends away from its slope
            bent, rise = (live * du).square().sum(1, keepdim=True), ds[:, k : k + 1]
            root = (rise.square() + 4 * bent * slack[:, k : k + 1]).sqrt() + rise
            step = torch.minimum(step, _SHORT * root / (2 * bent).clamp_min(torch.finfo(bent.dtype).tiny))
            ds[:, k : k + 1] -= step * bent
        # Slacks are carried on, not computed anew: near a bound the difference of the two would be mostly rounding.
        moves = ((u, du), (t, dt), (force, df), (slack, ds))
        u, t, force, slack = (torch.where(going, old + step * change, old) for old, change in moves)
    return live * u


def _newton(
    slopes: Tensor, normal: Tensor, bend: Tensor, slack: Tensor, force: Tensor, aim: Tensor
) -> tuple[Tensor, Tensor]:
    """By how much u and t change in one step towards products of slack and multiplier that all equal `aim`."""
    k, d = slopes.shape[1:]
    several, (below, above) = slice(0, k + 1), (slice(k + 1, k + 1 + d), slice(k + 1 + d, None))
    weight, wanted = force / slack, aim / slack
    stiff = weight[:, below] + weight[:, above] + bend
    push = wanted[:, below] - wanted[:, above]
    rows = torch.cat([slopes, normal[:, None]], dim=1)
    soft = rows / stiff[:, None]
    one = torch.ones_like(aim)
    edge = torch.cat([one.expand(-1, k), 0 * one], dim=1)
    block = soft @ rows.mT + torch.diag_embed(1 / weight[:, several])
    system = torch.cat(
        [torch.cat([block, -edge[:, :, None]], dim=2), torch.cat([edge, 0 * one], dim=1)[:, None]], dim=1
    )
    answer = torch.cat([aim / force[:, several] - _dot(soft, push), one], dim=1)
    solved = torch.linalg.solve_ex(system, answer).result
    return (push + _dot(rows.mT, solved[:, several])) / stiff, solved[:, k + 1 :]


def _room(ball: Ball, x: Tensor) -> tuple[Tensor, Tensor]:
    """How far each coordinate may fall and rise, in radii."""
    flat = x.double().flatten(1)
    low, high = (-math.inf, math.inf) if ball.bounds is None else ball.bounds
    return ((low - flat) / ball.radius).clamp(-1, 0), ((high - flat) / ball.radius).clamp(0, 1)


def _dot(rows: Tensor, u: Tensor) -> Tensor:
    return (rows @ u[:, :, None])[:, :, 0]
