"""HopSkipJump: walks along the decision boundary towards the input, asking for nothing but labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from robustsuite.access import LabelOracle
from robustsuite.core import Streams, checks
from robustsuite.core.rows import per_sample
from robustsuite.plugins import register

_TRIES: Final = 40  # starts that are tried for a sample
_SAME: Final = 16  # evaluations that are drawn together; fixed, so that no batch changes a draw
_HELD: Final = 2**22  # numbers of one pass
_SEARCH: Final = 22  # halvings of a search along a line, at most
_SHRINKS: Final = 12  # halvings of a step, at most
_FIRST: Final = 0.1  # of the inputs' range: the probing distance of the first step
_BEYOND: Final = 1e-3  # of the distance, by which the last point is moved on, so that rounding does not undo it
_FEWEST: Final = 8  # evaluations from which on a gradient is worth estimating
_TINY: Final = 1e-12


@register.attack(
    "hop-skip-jump",
    scenario="evasion",
    access="decision-based",
    resolves=(
        "zero-gradients",
        "broken-gradients",
        "misleading-gradients",
        "black-box-better",
        "not-adaptive",
        "jump-at-boundary",
    ),
    taxonomy=("AML.T0043.001", "ML01:2023", "NISTAML.022"),
)
@dataclass(frozen=True, kw_only=True)
class HopSkipJump:
    """Find a wrong answer, go back to the boundary, estimate its normal from labels around it, step along, repeat.

    Starts are noise of several grains, plain inputs of one value and the input's own negative: what belongs to the
    sample alone. A sample for which none of them reaches the goal, as most do for a targeted goal, is returned as it
    is. Where any point in the ball will do, a sample is left alone once one is found.

    Args:
        queries: Queries a sample at most, at least 1; the game's own budget, where it is lower, counts.
        evaluations: Labels from which the first normal is estimated, at least 8; the k-th takes the root of k times as
            many.
        most_evaluations: Of these for one normal, at most.

    Raises:
        RequestError: A budget of 0.

    Guarantees:
        Draws are keyed by sample id and step, so they are bit-equal in any batch. No query is made beyond the
        game's budget; the nearest point so far is returned.

    References:
        Chen, Jordan and Wainwright, IEEE S&P 2020, arXiv:1904.02144.

    Example:
        >>> HopSkipJump(queries=1000).norms
        ('linf', 'l2')
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    minimum_norm: ClassVar[bool] = True

    queries: int = 5000
    evaluations: int = 100
    most_evaluations: int = 10_000

    def __post_init__(self) -> None:
        checks.integer("queries", self.queries, low=1)
        checks.integer("evaluations", self.evaluations, low=_FEWEST)
        checks.integer("most_evaluations", self.most_evaluations, low=_FEWEST)

    def __call__(self, view: LabelOracle, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)` for the samples of this view.

        Raises:
            RequestError: The view's norm is none of `norms`.
        """
        checks.one_of("norm", view.ball.norm, self.norms)
        view.refuse_no_budget()
        if view.ball.radius == 0:
            return view.x.clone()
        return _Walk(self, view, streams).run()


class _Walk:
    """Boundary points of the samples of one view, on their way inwards."""

    def __init__(self, attack: HopSkipJump, view: LabelOracle, streams: Streams) -> None:
        self._attack, self._view, self._streams = attack, view, streams
        self._left = view.left(attack.queries)
        self._here = view.x.clone()
        self._best = view.x.clone()
        self._distance = torch.full((len(view.y),), math.inf, dtype=torch.float64, device=view.x.device)
        self._width = view.x[0].numel()
        self._bounds = view.ball.bounds or (float(view.x.min()), float(view.x.max()))

    def run(self) -> Tensor:
        """What is returned."""
        self._start()
        self._to_boundary(self._open())
        step = 0
        while len(rows := self._open()) > 0:
            self._step(rows, step)
            step += 1
        return self._handed_in()

    def _open(self) -> Tensor:
        """Samples with a point, queries left to go on with, and a reason to."""
        going: Tensor = self._distance.isfinite() & (self._left >= _FEWEST + 4) & (self._distance > 0)
        if not self._view.minimum_norm:
            going &= ~self._view.ball.contains(self._best, self._view.x)
        rows: Tensor = going.nonzero()[:, 0]
        return rows

    def _ask(self, x: Tensor, rows: Tensor) -> Tensor:
        """Whether these points reach the goal; each costs its sample one query. Rows may repeat."""
        self._left.scatter_add_(0, rows, torch.full_like(rows, -1))
        answers = self._view.labels(x, rows)
        return self._view.goal_reached(answers, rows) & (answers >= 0)

    def _look(self, x: Tensor, rows: Tensor) -> Tensor:
        """Ask, and keep what is nearer than the nearest so far; each sample once."""
        reached = self._ask(x, rows)
        distance = self._view.ball.distance(x, self._view.x[rows])
        better = reached & (distance < self._distance[rows])
        self._best[rows[better]], self._distance[rows[better]] = x[better], distance[better]
        return reached

    def _start(self) -> None:
        """The first of several starts that reaches the goal."""
        rows = torch.arange(len(self._here), device=self._here.device)
        for attempt in range(_TRIES):
            rows = rows[(self._left[rows] > 0) & self._distance[rows].isinf()]
            if len(rows) == 0:
                return
            x = self._noise(rows, attempt)
            reached = self._look(x, rows)
            self._here[rows[reached]] = x[reached]

    def _noise(self, rows: Tensor, attempt: int) -> Tensor:
        """Noise of a grain that grows, in turn with plain inputs and the negative of the sample."""
        (low, high), x = self._bounds, self._view.x[rows]
        kind, round_ = attempt % 4, attempt // 4
        if kind == 3:
            return low + high - x if round_ == 0 else torch.full_like(x, low + (high - low) * ((round_ - 1) % 3) / 2)
        streams, grain = self._streams.child("start", attempt), (1, 2, 4)[kind]
        draws = streams.uniform(self._view.ids[rows], x.shape[1:], dtype=x.dtype)
        if x.dim() == 4 and grain > 1 and min(x.shape[2:]) >= grain:
            coarse = draws[:, :, ::grain, ::grain].repeat_interleave(grain, 2).repeat_interleave(grain, 3)
            draws = coarse[:, :, : x.shape[2], : x.shape[3]]
        return low + (high - low) * draws

    def _between(self, rows: Tensor, outer: Tensor, share: Tensor) -> Tensor:
        """The points at this share of the way from the inputs to `outer`; in linf all of it, cut at that distance."""
        x = self._view.x[rows]
        scale = per_sample(share.to(x.dtype), x)
        if self._view.ball.norm == "l2":
            return x + scale * (outer - x)
        reach = (outer - x).flatten(1).abs().amax(1).reshape(scale.shape) * scale
        return x + (outer - x).maximum(-reach).minimum(reach)

    def _to_boundary(self, rows: Tensor) -> None:
        """Halve the way between each input and its point until the boundary is pinned down."""
        outer = self._here[rows]
        low = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        high = torch.ones_like(low)
        enough = 1 / self._width ** (1.5 if self._view.ball.norm == "l2" else 2.0)
        enough = max(enough, 4 * torch.finfo(outer.dtype).eps)
        for _ in range(_SEARCH):
            left_over = ((high - low > enough) & (self._left[rows] > 0)).nonzero()[:, 0]
            if len(left_over) == 0:
                break
            middle = (low[left_over] + high[left_over]) / 2
            reached = self._look(self._between(rows[left_over], outer[left_over], middle), rows[left_over])
            high[left_over] = torch.where(reached, middle, high[left_over])
            low[left_over] = torch.where(reached, low[left_over], middle)
        self._here[rows] = self._between(rows, outer, high)

    def _step(self, rows: Tensor, step: int) -> None:
        distance = self._view.ball.distance(self._here[rows], self._view.x[rows])
        span = self._bounds[1] - self._bounds[0]
        reach = torch.full_like(distance, _FIRST * span) if step == 0 else distance / self._width
        direction = self._normals(rows, reach.to(self._here.dtype), step)
        if self._view.ball.norm == "linf":
            direction = direction.sign()
        moved, length = self._here[rows].clone(), distance / math.sqrt(step + 1)
        open_ = torch.ones_like(rows, dtype=torch.bool)
        for _ in range(_SHRINKS):
            place = (open_ & (self._left[rows] > 0)).nonzero()[:, 0]
            if len(place) == 0:
                break
            size = per_sample(length[place].to(moved.dtype), moved)
            x = self._cut(self._here[rows[place]] + size * direction[place])
            reached = self._look(x, rows[place])
            moved[place[reached]], open_[place[reached]] = x[reached], False
            length[place[~reached]] /= 2
        self._here[rows] = moved
        self._to_boundary(rows)

    def _normals(self, rows: Tensor, reach: Tensor, step: int) -> Tensor:
        """Unit directions `(n, …)` in which more of the points around are adversarial."""
        wanted = min(int(self._attack.evaluations * math.sqrt(step + 1)), self._attack.most_evaluations)
        counts = (self._left[rows] - 4).clamp(0, wanted)
        direction = torch.zeros_like(self._here[rows])
        at_once = max(1, _HELD // (_SAME * self._width))
        for piece in torch.split(torch.arange(len(rows), device=rows.device), at_once):
            direction[piece] = self._normal(rows[piece], reach[piece], counts[piece], step)
        return direction

    def _normal(self, rows: Tensor, reach: Tensor, counts: Tensor, step: int) -> Tensor:
        here, shape = self._here[rows], self._here.shape[1:]
        signed, plain = torch.zeros_like(here), torch.zeros_like(here)
        votes = torch.zeros_like(reach)
        for part in range(math.ceil(int(counts.max()) / _SAME)):
            offsets = self._offsets(rows, reach, (_SAME, *shape), self._streams.child("around", step, part))
            x = self._cut(here[:, None] + offsets)
            used = (part * _SAME + torch.arange(_SAME, device=rows.device))[None] < counts[:, None]
            reached = self._ask(x[used], rows[:, None].expand(-1, _SAME)[used])
            vote = torch.zeros(used.shape, dtype=here.dtype, device=rows.device)
            vote[used] = reached.to(here.dtype) * 2 - 1
            held = ((x - here[:, None]) / per_sample(reach, x)).flatten(2)
            signed += torch.einsum("nk,nkd->nd", vote, held).reshape(here.shape)
            plain += torch.einsum("nk,nkd->nd", used.to(here.dtype), held).reshape(here.shape)
            votes += vote.sum(1)
        mean = votes / counts.clamp_min(1)
        mean = per_sample(torch.where(mean.abs() == 1, torch.zeros_like(mean), mean), here)
        slope = signed - mean * plain
        length = torch.linalg.vector_norm(slope.flatten(1), dim=1).clamp_min(_TINY)
        found: Tensor = slope / length.reshape(mean.shape)
        return found

    def _offsets(self, rows: Tensor, reach: Tensor, shape: tuple[int, ...], streams: Streams) -> Tensor:
        ids, dtype = self._view.ids[rows], self._here.dtype
        if self._view.ball.norm == "l2":
            draws = streams.normal(ids, shape, dtype=dtype)
        else:
            draws = 2 * streams.uniform(ids, shape, dtype=dtype) - 1
        length = torch.linalg.vector_norm(draws.flatten(2), dim=2).clamp_min(_TINY)
        scale = reach[:, None] / length
        offsets: Tensor = draws * scale.reshape(*scale.shape, *[1] * (draws.dim() - 2))
        return offsets

    def _cut(self, x: Tensor) -> Tensor:
        return x if self._view.ball.bounds is None else x.clamp(*self._view.ball.bounds)

    def _handed_in(self) -> Tensor:
        """Each nearest point, moved on a little where that still is adversarial; what is out of the ball, drawn in."""
        view = self._view
        rows = (self._distance.isfinite() & (self._left > 0)).nonzero()[:, 0]
        if len(rows) > 0:
            x = self._cut(view.x[rows] + (1 + _BEYOND) * (self._best[rows] - view.x[rows]))
            allowed = view.ball.contains(x, view.x[rows])
            rows, x = rows[allowed], x[allowed]
            reached = self._ask(x, rows) if len(rows) else torch.zeros_like(rows, dtype=torch.bool)
            self._best[rows[reached]] = x[reached]
        inside = view.ball.contains(self._best, view.x)
        drawn_in = view.ball.project(self._best, view.x)
        return torch.where(per_sample(inside, view.x), self._best, drawn_in)
