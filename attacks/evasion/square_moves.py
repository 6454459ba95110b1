"""What Square proposes, as pure functions: where a window lies, how large it is, and what is written into it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from robustsuite.core import Ball, Streams

_HALVED: Final = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries, after which windows are halved
_TILES: Final = 5  # along each side, of an l2 or l1 start
_LEAST: Final = 3  # side of an l2 or l1 window
_DECAY: Final = {"l2": 2, "l1": 4}  # power by which the bump in a window falls off from its centre
_DRAWS: Final = 5  # numbers a sample and proposal, beside one for each channel
_TINY: Final = 1e-12


def share(step: int, steps: int, first: float, *, rescaled: bool = True) -> float:
    """Share of an input that a window covers at this step: `first`, halved at fixed points of 10,000 queries.

    Args:
        step: Queries asked so far.
        steps: Queries in all.
        first: Share at the start, in (0, 1].
        rescaled: Whether the points are moved together with the number of queries.

    Example:
        >>> share(0, 1000, 0.8), share(2, 1000, 0.8), share(999, 1000, 0.8)
        (0.8, 0.4, 0.0015625)
    """
    place = int(step / steps * 10_000) if rescaled else step
    return first / 2.0 ** sum(place > point for point in _HALVED)


@dataclass(frozen=True)
class Moves:
    """Starts and proposals for samples of one shape, seen as images of one or more channels.

    Vectors are seen as images of one row. Each sample has a window of its own, keyed by its id.

    Args:
        ball: Norm, radius and bounds.
        shape: Of one sample.
        streams: What is drawn from.
    """

    ball: Ball
    shape: tuple[int, ...]
    streams: Streams

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        if len(self.shape) == 3:
            return self.shape[0], self.shape[1], self.shape[2]
        if len(self.shape) == 2:
            return 1, self.shape[0], self.shape[1]
        return 1, 1, math.prod(self.shape)

    def start(self, x: Tensor, ids: Tensor) -> Tensor:
        """Where the search begins `(n, …)`: in linf random stripes of the full radius, else a grid of bumps."""
        channels, height, width = self.image
        centre = x.reshape(-1, channels, height, width)
        if self.ball.norm == "linf":
            sign = _signs(self.streams.child("stripes").uniform(ids, (channels, 1, width), dtype=x.dtype))
            return self._within(centre + self.ball.radius * sign).reshape(x.shape)
        rows, columns = max(1, height // _TILES), max(1, width // _TILES)
        down, across = height // rows, width // columns
        draws = self.streams.child("bumps").uniform(ids, (channels + 1, down * across), dtype=x.dtype)
        sign = _signs(draws[:, :channels]).reshape(-1, channels, down, 1, across, 1)
        turned = (draws[:, channels] > 0.5).reshape(-1, 1, down, 1, across, 1)
        upright, lying = (bump.reshape(1, 1, 1, rows, 1, columns) for bump in self._bumps(rows, columns, x))
        grid = (torch.where(turned, lying, upright) * sign).reshape(-1, channels, down * rows, across * columns)
        delta = torch.zeros_like(centre)
        top, left = (height - down * rows) // 2, (width - across * columns) // 2
        delta[:, :, top : top + down * rows, left : left + across * columns] = grid
        return self._filled(delta, centre).reshape(x.shape)

    def propose(self, best: Tensor, x: Tensor, ids: Tensor, step: int, covered: float) -> Tensor:
        """Points to ask about next `(n, …)`, each the best one so far with one window changed.

        Args:
            best: The best points so far.
            x: The clean inputs.
            ids: Sample ids `(n,)`.
            step: Which proposal this is; it keys the draws.
            covered: Share of the input that the window covers.
        """
        channels, height, width = self.image
        draws = self.streams.child("window", step).uniform(ids, (_DRAWS + channels,), dtype=torch.float64)
        sign = _signs(draws[:, _DRAWS:].to(x.dtype))[:, :, None, None]
        here, centre = (t.reshape(-1, channels, height, width) for t in (best, x))
        if self.ball.norm == "linf":
            new = self._square(here, centre, draws, sign, covered)
        else:
            new = self._moved_mass(here, centre, draws, sign, covered)
        return new.reshape(x.shape)

    def _square(self, best: Tensor, centre: Tensor, draws: Tensor, sign: Tensor, covered: float) -> Tensor:
        """One window at the full radius, with one sign a channel; the other signs, where these change nothing."""
        rows, columns = self._sides(covered, 1)
        window = self._window(draws[:, 0], draws[:, 1], rows, columns)
        new = torch.where(window, self._within(centre + self.ball.radius * sign), best)
        idle = (new == best).flatten(1).all(1)
        if idle.any():
            other = self._within(centre[idle] - self.ball.radius * sign[idle])
            new[idle] = torch.where(window[idle], other, best[idle])
        return new

    def _moved_mass(self, best: Tensor, centre: Tensor, draws: Tensor, sign: Tensor, covered: float) -> Tensor:
        """What lies in a second window is moved into the first, as a bump beside what was there."""
        channels = best.shape[1]
        rows, columns = (side + (side % 2 == 0) for side in self._sides(covered, _LEAST))
        rows, columns = min(rows, best.shape[2]), min(columns, best.shape[3])
        first = self._window(draws[:, 0], draws[:, 1], rows, columns)
        second = self._window(draws[:, 2], draws[:, 3], rows, columns)
        delta = best - centre
        inside = delta * first
        bump = self._placed(draws, rows, columns, best)
        new = bump * sign + inside / (self._size(inside) + _TINY)
        spent = self._size(delta.flatten(1)[:, None, :, None])
        held = self._size(delta * (first | second))
        if self.ball.norm == "l2":
            budget = ((self.ball.radius**2 - spent**2).clamp_min(0) / channels + held**2).sqrt()
        else:
            budget = ((self.ball.radius - spent).clamp_min(0) / channels + held) * channels
        new = new / (self._size(new) + _TINY) * budget
        return self._filled(torch.where(first, new, delta.masked_fill(second, 0)), centre)

    def _sides(self, covered: float, least: int) -> tuple[int, int]:
        _, height, width = self.image
        side = max(round(math.sqrt(covered * height * width)), least)
        rows = min(side, height)
        columns = side if rows == side else max(round(covered * width), least)
        return rows, min(columns, width)

    def _window(self, down: Tensor, across: Tensor, rows: int, columns: int) -> Tensor:
        """Masks `(n, 1, height, width)` of windows at random places."""
        _, height, width = self.image
        top, left = self._corner(down, height, rows), self._corner(across, width, columns)
        line = torch.arange(height, device=down.device)[None]
        column = torch.arange(width, device=down.device)[None]
        tall = (line >= top[:, None]) & (line < top[:, None] + rows)
        wide = (column >= left[:, None]) & (column < left[:, None] + columns)
        return tall[:, None, :, None] & wide[:, None, None, :]

    @staticmethod
    def _corner(draw: Tensor, length: int, side: int) -> Tensor:
        return (draw * (length - side + 1)).long()

    def _placed(self, draws: Tensor, rows: int, columns: int, like: Tensor) -> Tensor:
        """The bump of each sample's first window `(n, 1, height, width)`, upright or lying; zero around it."""
        _, height, width = self.image
        top, left = self._corner(draws[:, 0], height, rows), self._corner(draws[:, 1], width, columns)
        line = torch.arange(height, device=like.device)[None] - top[:, None]
        column = torch.arange(width, device=like.device)[None] - left[:, None]
        outside = ((line < 0) | (line >= rows))[:, :, None] | ((column < 0) | (column >= columns))[:, None, :]
        both = torch.stack(self._bumps(rows, columns, like))
        turned = (draws[:, 4] > 0.5).long()[:, None, None]
        bump = both[turned, line.clamp(0, rows - 1)[:, :, None], column.clamp(0, columns - 1)[:, None, :]]
        return bump.masked_fill(outside, 0)[:, None]

    def _bumps(self, rows: int, columns: int, like: Tensor) -> tuple[Tensor, Tensor]:
        power = _DECAY[self.ball.norm]
        upright = _pair(rows, columns, power).to(like)
        lying = _pair(columns, rows, power).T.to(like)
        return tuple(bump / self._size(bump[None, None]).reshape(()) for bump in (upright, lying))  # type: ignore[return-value]

    def _size(self, delta: Tensor) -> Tensor:
        """Norm of each channel `(n, C, 1, 1)`."""
        if self.ball.norm == "l2":
            return delta.square().sum((-2, -1), keepdim=True).sqrt()
        return delta.abs().sum((-2, -1), keepdim=True)

    def _filled(self, delta: Tensor, centre: Tensor) -> Tensor:
        """The changed inputs, with a change that fills the radius as far as the bounds leave room."""
        size = self._size(delta.flatten(1)[:, None, :, None])
        return self._within(centre + delta * (self.ball.radius / (size + _TINY)))

    def _within(self, moved: Tensor) -> Tensor:
        return moved if self.ball.bounds is None else moved.clamp(*self.ball.bounds)


def _signs(draws: Tensor) -> Tensor:
    return torch.where(draws < 0.5, -1.0, 1.0).to(draws.dtype)


def _pair(rows: int, columns: int, power: int) -> Tensor:
    """A bump above a hole `(rows, columns)`."""
    upper = rows // 2
    lower = -_pyramid(rows - upper, columns, power)
    return torch.cat([_pyramid(upper, columns, power), lower]) if upper else lower


def _pyramid(rows: int, columns: int, power: int) -> Tensor:
    """Nested rectangles around the centre, each weighed by its rank to a negative power; of l2 or l1 norm 1."""
    bump = torch.zeros(rows, columns, dtype=torch.float64)
    middle, centre = rows // 2, columns // 2
    for rank in range(max(rows // 2, columns // 2) + 1):
        lines = slice(max(middle - rank, 0), min(middle + rank + 1, rows))
        bump[lines, max(centre - rank, 0) : min(centre + rank + 1, columns)] += 1.0 / (rank + 1) ** power
    length: Tensor = torch.linalg.vector_norm(bump.flatten(), ord=2 if power == _DECAY["l2"] else 1)
    return bump / length
