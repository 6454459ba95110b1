"""What an attack has found so far, one point a sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Found:
    """The artefact so far: each fallen sample where it first fell, each standing one where its loss was greatest.

    Rows may repeat within one batch, as they do where several restarts of a sample run side by side.

    Args:
        x: What is handed in for a sample of which nothing is known `(N, …)`; copied.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x.clone()
        self._most = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)

    def keep(self, x: Tensor, rows: Tensor, loss: Tensor, fallen: Tensor) -> None:
        """Take in points `(n, …)` of samples `rows (n,)`, with their losses and whether they reach the goal."""
        score = loss.double().nan_to_num(nan=-math.inf, posinf=torch.finfo(torch.float64).max)
        score = score.masked_fill(fallen, math.inf)
        best = self._most.scatter_reduce(0, rows, score, "amax")
        wins = (score > self._most[rows]) & (score == best[rows])
        place = torch.arange(len(rows), device=rows.device)
        first = torch.full_like(self._most, len(rows), dtype=torch.int64)
        first = first.scatter_reduce(0, rows[wins], place[wins], "amin")
        wins &= first[rows] == place
        self.x[rows[wins]] = x[wins]
        self._most = best

    def stands(self, rows: Tensor) -> Tensor:
        """Which of these samples have never been seen to fall; bool `(n,)`."""
        return self._most[rows] < math.inf

    def standing(self) -> Tensor:
        """The samples that have never been seen to fall, in order."""
        return (self._most < math.inf).nonzero()[:, 0]


def side_by_side(runs: int, standing: int, full: int) -> int:
    """How many of the runs that are left to start at once, so that the batch is at most full.

    Args:
        runs: Runs that are left, at least 1.
        standing: Samples that each run is for.
        full: Samples from which on a pass costs in proportion.
    """
    return max(1, min(runs, full // max(1, standing)))
