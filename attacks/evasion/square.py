"""Square: a random search over windows of the input that needs nothing but scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from robustsuite.access import Inputs, ScoreOracle, WhiteBox
from robustsuite.core import Ball, Streams, checks, losses
from robustsuite.core.door import labels_of
from robustsuite.plugins import register

Ask = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Inputs `(n, …)` and samples `rows (n,)` to the margins by which they reach the goal, and whether they do `(n,)`."""

_RESOLVES: Final = (
    "zero-gradients", "broken-gradients", "misleading-gradients", "saturated-loss", "black-box-better",
    "unbounded-attack-fails", "gradients-in-forward", "not-adaptive", "probabilities", "jump-at-boundary",
    "jump-at-clean-inputs", "depends-on-batch", "depends-on-autograd",
)  # fmt: skip
_HALVED: Final = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries, after which windows are halved
_TILES: Final = 5  # along each side, of an l2 or l1 start
_LEAST: Final = 3  # side of an l2 or l1 window
_DECAY: Final = {"l2": 2, "l1": 4}  # power by which the bump in a window falls off from its centre
_DRAWS: Final = 5  # numbers a sample and proposal, beside one for each channel
_TINY: Final = 1e-12


class Searched(NamedTuple):
    """The best points `(N, …)`, the margins there `(N,)`, and whether they reach the goal `(N,)`."""

    x: Tensor
    margin: Tensor
    broken: Tensor


@register.attack(
    "square",
    scenario="evasion",
    access="score-based",
    resolves=_RESOLVES,
    taxonomy=("AML.T0043.001", "ML01:2023", "NISTAML.022"),
)
@dataclass(frozen=True, kw_only=True)
class Square:
    """Change one random window at a time, and keep each change that brings the scores nearer to the goal.

    No gradient is used, so that nothing that hides gradients withstands it. Windows shrink as the search goes on. A
    sample that is broken is queried no more. In linf a proposal that would change nothing takes the other sign.

    Args:
        queries: Queries a sample at most, at least 1; the game's own budget, where it is lower, counts.
        share: Share of the input that the first windows cover, in (0, 1].
        rescaled: Whether windows shrink in proportion to `queries`, rather than at fixed points of 10,000.

    Raises:
        RequestError: A budget of 0.

    Guarantees:
        Draws are keyed by sample id and proposal, so they are bit-equal in any batch. No query is made beyond the
        game's budget; the best point so far is returned.

    References:
        Andriushchenko et al., ECCV 2020, arXiv:1912.00049; in l1: Croce and Hein, ICML 2021, arXiv:2103.01208.

    Example:
        >>> Square(queries=1000).share
        0.8
    """

    queries: int = 5000
    share: float = 0.8
    rescaled: bool = True

    def __post_init__(self) -> None:
        checks.integer("queries", self.queries, low=1)
        checks.real("share", self.share, low=0.0, high=1.0, open_low=True)

    def __call__(self, view: ScoreOracle, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)` for the samples of this view."""
        view.refuse_no_budget()
        if view.ball.radius == 0:
            return view.x.clone()
        return self.search(view, asking(view), streams, limit=view.left(self.queries)).x

    def search(
        self, view: Inputs, ask: Ask, streams: Streams, *, limit: Tensor | None = None, start: Searched | None = None
    ) -> Searched:
        """The search itself, whoever answers.

        Args:
            view: Whose samples are searched for; its ids key the draws.
            ask: What answers; a call is one query for each of its inputs.
            streams: What is drawn from.
            limit: Most queries for each sample `(N,)`; by default `queries`.
            start: Where to go on from, in place of a random start.
        """
        moves = Moves(view.ball, tuple(view.x.shape[1:]), streams)
        most = torch.full((len(view.y),), self.queries, device=view.x.device) if limit is None else limit
        begun = _begin(view, ask, moves, most) if start is None else start
        best, margin, broken = (part.clone() for part in begun)
        first = 1 if start is None else 0  # a random start has cost a query
        asked = torch.full_like(most, first)
        for step in range(self.queries - first):
            rows = (~broken & (asked < most)).nonzero()[:, 0]
            if len(rows) == 0:
                break
            covered = share(step, self.queries, self.share, rescaled=self.rescaled)
            here = best[rows]
            new = moves.propose(here, view.x[rows], view.ids[rows], step, covered)
            changed = (new != here).flatten(1).any(1)
            if not changed.all():
                rows, new = rows[changed], new[changed]
                if len(rows) == 0:
                    continue
            found, reached = ask(new, rows)
            asked[rows] += 1
            better = reached | (found >= margin[rows])  # ties too, so that a plateau is walked over
            won = rows[better]
            best[won], margin[won], broken[won] = new[better], found[better], reached[better]
        return Searched(best, margin, broken)


def _begin(view: Inputs, ask: Ask, moves: Moves, most: Tensor) -> Searched:
    rows = (most > 0).nonzero()[:, 0]
    best = view.x.clone()
    margin = torch.full((len(best),), -math.inf, dtype=best.dtype, device=best.device)
    broken = torch.zeros(len(best), dtype=torch.bool, device=best.device)
    if len(rows):
        best[rows] = moves.start(view.x[rows], view.ids[rows])
        margin[rows], broken[rows] = ask(best[rows], rows)
    return Searched(best, margin, broken)


def asking(view: ScoreOracle) -> Ask:
    """Margins out of an oracle's probabilities: of their logarithms, which differ as the logits do."""

    def ask(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        scores = view.scores(x, rows)
        wanted = view.y[rows] if view.target is None else view.target[rows]
        logs = scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
        named = logs.gather(1, wanted[:, None])[:, 0]
        other = logs.scatter(1, wanted[:, None], -math.inf).amax(1)
        accepted = scores.sum(1) != 0
        margin = other - named if view.target is None else named - other
        # An answer that is not finite has no label: wrong, and nobody's target.
        margin = margin.nan_to_num(math.inf if view.target is None else -math.inf, math.inf, -math.inf)
        margin = margin.masked_fill(~accepted, -math.inf).to(x.dtype)
        return margin, accepted & view.goal_reached(labels_of(scores), rows)

    return ask


def answers_of(view: WhiteBox) -> Ask:
    """Margins of the logits themselves; the least where a deployed model rejects what its network gets wrong."""

    def ask(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        value, broken = view.value(x, rows, losses.margin)
        return value.masked_fill((value > 0) & ~broken, -math.inf), broken

    return ask


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
        bump = self._placed(draws, rows, columns, first, best)
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
        top, left = _corner(down, height, rows), _corner(across, width, columns)
        line = torch.arange(height, device=down.device)[None]
        column = torch.arange(width, device=down.device)[None]
        tall = (line >= top[:, None]) & (line < top[:, None] + rows)
        wide = (column >= left[:, None]) & (column < left[:, None] + columns)
        return tall[:, None, :, None] & wide[:, None, None, :]

    def _placed(self, draws: Tensor, rows: int, columns: int, window: Tensor, like: Tensor) -> Tensor:
        """The bump of each sample's first window `(n, 1, height, width)`, upright or lying; zero around it."""
        _, height, width = self.image
        line = torch.arange(height, device=like.device)[None] - _corner(draws[:, 0], height, rows)[:, None]
        column = torch.arange(width, device=like.device)[None] - _corner(draws[:, 1], width, columns)[:, None]
        both = torch.stack(self._bumps(rows, columns, like))
        turned = (draws[:, 4] > 0.5).long()[:, None, None]
        bump = both[turned, line.clamp(0, rows - 1)[:, :, None], column.clamp(0, columns - 1)[:, None, :]]
        return bump[:, None].masked_fill(~window, 0)

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


def _corner(draw: Tensor, length: int, side: int) -> Tensor:
    return (draw * (length - side + 1)).long()


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
