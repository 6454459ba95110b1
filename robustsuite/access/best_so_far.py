"""What an attack has found so far, one point a sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustsuite.access.values import ValueAndGrad


class BestSoFar:
    """The artefact so far: each sample where it was first broken, or else where its loss was greatest.

    Rows may repeat within one batch, as they do where several restarts of a sample run side by side.

    Args:
        x: What is returned for a sample of which nothing is known `(N, …)`; copied.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x.clone()
        self._most = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)

    def keep(self, x: Tensor, rows: Tensor, value: Tensor, broken: Tensor) -> None:
        """Take in points `(n, …)` of samples `rows (n,)`, with their losses and whether they reach the goal."""
        score = value.double().nan_to_num(nan=-math.inf, posinf=torch.finfo(torch.float64).max)
        score = score.masked_fill(broken, math.inf)
        best = self._most.scatter_reduce(0, rows, score, "amax")
        wins = (score > self._most[rows]) & (score == best[rows])
        place = torch.arange(len(rows), device=rows.device)
        first = torch.full_like(self._most, len(rows), dtype=torch.int64)
        first = first.scatter_reduce(0, rows[wins], place[wins], "amin")
        wins &= first[rows] == place
        self.x[rows[wins]] = x[wins]
        self._most = best

    def go_on(self, x: Tensor, rows: Tensor, seen: ValueAndGrad, *beside: Tensor) -> tuple[Tensor, ...]:
        """Take these points in, and go on with the samples that are not broken yet.

        Args:
            x: Points `(n, …)`.
            rows: Samples that they belong to `(n,)`.
            seen: What a pass said of them.
            *beside: What else goes on with them, a row each.

        Returns:
            Points, rows and gradients of those samples, and theirs of each of `beside`.
        """
        self.keep(x, rows, seen.value, seen.broken)
        parts, unbroken = (x, rows, seen.gradient, *beside), self.unbroken(rows)
        return parts if unbroken.all() else tuple(part[unbroken] for part in parts)

    def unbroken(self, rows: Tensor) -> Tensor:
        """Which of these samples were never seen to be broken; bool `(n,)`."""
        return self._most[rows] < math.inf

    def left(self) -> Tensor:
        """The samples that were never seen to be broken, in order."""
        return (self._most < math.inf).nonzero()[:, 0]


def side_by_side(runs: int, left: int, full: int) -> int:
    """How many of the runs that are left to start at once, so that the batch is at most full.

    Args:
        runs: Runs that are left, at least 1.
        left: Samples that each run is for.
        full: Samples from which on a pass costs in proportion.
    """
    return max(1, min(runs, full // max(1, left)))
