"""Square: a random search over windows of the input that needs nothing but scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from torch import Tensor

from robustsuite.access import Inputs, Oracle, ScoreOracle, WhiteBox
from robustsuite.attacks.evasion.square_moves import Moves, share
from robustsuite.core import Streams, checks, losses
from robustsuite.core.door import labels_of
from robustsuite.plugins import register

Ask = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Inputs `(n, …)` and samples `rows (n,)` to the margins by which they reach the goal, and whether they do `(n,)`."""

_RESOLVES: Final = (
    "zero-gradients", "broken-gradients", "misleading-gradients", "saturated-loss", "black-box-better", "huge-radius",
    "gradients-in-forward", "not-adaptive", "probabilities",
)  # fmt: skip


class Searched(NamedTuple):
    """The best points `(N, …)`, the margins there `(N,)`, and whether they reach the goal `(N,)`."""

    x: Tensor
    margin: Tensor
    broken: Tensor


@register.attack(
    "square",
    scenario="evasion",
    access="scores",
    resolves=_RESOLVES,
    taxonomy=("AML.T0043.001", "ML01:2023", "NISTAML.022"),
)
@dataclass(frozen=True, kw_only=True)
class Square:
    """Change one random window at a time, and keep each change that brings the scores nearer to the goal.

    No gradient is used, so that nothing that hides gradients withstands it. Windows shrink as the search goes on. A
    sample that falls is asked about no more. In linf a proposal that would change nothing takes the other sign.

    Args:
        queries: Questions a sample at most, at least 1; the game's own budget, where it is lower, counts.
        share: Share of the input that the first windows cover, in (0, 1].
        rescaled: Whether windows shrink in proportion to `queries`, rather than at fixed points of 10,000.

    Raises:
        RequestError: A budget of 0.

    Guarantees:
        Draws are keyed by sample id and proposal, so they are bit-equal in any batch. No question is asked beyond the
        game's budget; the best point so far is handed in.

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
        has_budget(view)
        if view.ball.radius == 0:
            return view.x.clone()
        return self.search(view, asking(view), streams, limit=left(view, self.queries)).x

    def search(
        self, view: Inputs, ask: Ask, streams: Streams, *, limit: Tensor | None = None, start: Searched | None = None
    ) -> Searched:
        """The search itself, whoever answers.

        Args:
            view: Whose samples are searched for; its ids key the draws.
            ask: What answers; a call is one question for each of its inputs.
            streams: What is drawn from.
            limit: Most questions for each sample `(N,)`; by default `queries`.
            start: Where to go on from, in place of a random start.
        """
        moves = Moves(view.ball, tuple(view.x.shape[1:]), streams)
        most = torch.full((len(view.y),), self.queries, device=view.x.device) if limit is None else limit
        begun = self._begin(view, ask, moves, most) if start is None else start
        best, margin, broken = (part.clone() for part in begun)
        asked = torch.full_like(most, 0 if start is not None else 1)
        for step in range(self.queries if start is not None else self.queries - 1):
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

    @staticmethod
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


def has_budget(view: Oracle) -> None:
    """Refuse an oracle that may not be asked anything.

    Raises:
        RequestError: The budget is below 1.
    """
    if view.budget is not None and view.budget < 1:
        raise checks.fail("at least 1 query per sample", "query_budget", view.budget, "raise it, or drop it")


def left(view: Oracle, queries: int) -> Tensor:
    """Questions that may be asked about each sample of this view `(N,)`."""
    counts = [int(min(queries, view.remaining(row))) for row in range(len(view.y))]
    return torch.tensor(counts, dtype=torch.int64, device=view.x.device)
