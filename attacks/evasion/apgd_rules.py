"""The rules of Auto-PGD, as pure functions of the state of its runs."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

from robustsuite.core import Ball

_MOMENTUM: Final = 0.25  # weight of the last step against the new one
_RHO: Final = 0.75  # share of steps that must raise the loss, or the step is halved
_SHRINKS: Final = 0.95  # of its support, below which an l1 point counts as having grown sparser
_SHORTER: Final = 1.5  # by which l1 steps and supports are divided
_SHORTEST: Final = 10.0  # part of the radius, in l1
_FIRST_SHARE: Final = 0.2  # of the coordinates that the first l1 steps from a centre move


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


def start(rows: Tensor, aim: Tensor, centre: Tensor, x: Tensor, loss: Tensor, gradient: Tensor, ball: Ball) -> Runs:
    """Runs that begin at `x`, where loss and gradient are known; steps of twice the radius, in l1 of once."""
    loss = loss.nan_to_num(nan=-math.inf)
    support = _support(x, centre)
    share = torch.where(support > 0, support / centre[0].numel() / _SHORTER, _FIRST_SHARE)
    support = torch.where(support > 0, support, centre[0].numel())
    length = torch.full_like(loss, ball.radius * (1.0 if ball.norm == "l1" else 2.0))
    fresh = torch.zeros_like(loss)
    return Runs(
        rows, aim, centre, x, x, loss, gradient, x, loss, gradient, loss, fresh, length, fresh > 0, share, support
    )  # fmt: skip


def move(state: Runs, ball: Ball, *, first: bool) -> Runs:
    """One step along the gradient, and but for the first one a quarter of the last step, projected."""
    x, centre = state.x, state.centre
    if ball.norm == "l1":
        new = ball.project(sparse_step(x, state.gradient, state.length, state.share), centre)
    else:
        new = ball.project(ball.step(x, state.gradient, state.length), centre)
        if not first:
            new = ball.project(new + _MOMENTUM * ((x - new) + (x - state.before)), centre)
    return state._replace(x=new, before=x)


def sparse_step(x: Tensor, gradient: Tensor, length: Tensor, share: Tensor) -> Tensor:
    """Move by `length (n,)` in l1, spread over the share `(n,)` of the coordinates that have the greatest gradients."""
    size = gradient.abs().flatten(1)
    count = (share * size.shape[1]).long().clamp(1, size.shape[1])
    least = size.sort(dim=1, descending=True).values.gather(1, count[:, None] - 1)
    chosen = gradient.flatten(1).sign() * (size >= least)
    return x + _each(length, x) * (chosen / chosen.abs().sum(1, keepdim=True).clamp_min(1)).reshape(x.shape)


def look(state: Runs, loss: Tensor, gradient: Tensor | None) -> Runs:
    """Take in loss and gradient at the present points; without a gradient the runs have come to their end."""
    slope = state.gradient if gradient is None else gradient
    better = loss > state.best_loss
    here = _each(better, state.x)
    return state._replace(
        loss=loss,
        gradient=slope,
        best=torch.where(here, state.x, state.best),
        best_loss=torch.where(better, loss, state.best_loss),
        best_gradient=torch.where(here, slope, state.best_gradient),
        rises=state.rises + (loss > state.loss),
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


def halve(state: Runs, since: int) -> Runs:
    """Halve the step, and go back to the best point, of runs that stalled over the `since` steps since the last check.

    A run stalls where less than three quarters of its steps raised the loss, or where neither its step size nor its
    greatest loss have changed since the last check.
    """
    stuck = ~state.halved & (state.best_loss <= state.checked)
    stalled = (state.rises < _RHO * since) | stuck
    state = _back(state, stalled)
    return state._replace(
        length=torch.where(stalled, state.length / 2, state.length),
        halved=stalled,
        checked=state.best_loss,
        rises=torch.zeros_like(state.rises),
    )


def sparsen(state: Runs, radius: float) -> Runs:
    """In l1, follow the best point's support: while it shrinks go back there with long steps, else step shorter."""
    support = _support(state.best, state.centre)
    shrinks = support < _SHRINKS * state.support
    shorter = (state.length / _SHORTER).clamp_min(radius / _SHORTEST)
    state = _back(state, shrinks)
    return state._replace(
        length=torch.where(shrinks, torch.full_like(shorter, radius), shorter),
        share=support / state.centre[0].numel() / _SHORTER,
        support=support,
    )


def _back(state: Runs, runs: Tensor) -> Runs:
    back = _each(runs, state.x)
    return state._replace(
        x=torch.where(back, state.best, state.x),
        loss=torch.where(runs, state.best_loss, state.loss),
        gradient=torch.where(back, state.best_gradient, state.gradient),
    )


def _support(x: Tensor, centre: Tensor) -> Tensor:
    return (x != centre).flatten(1).sum(1).to(x.dtype)


def _each(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *([1] * (x.dim() - 1)))
