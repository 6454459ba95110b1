"""The least that any adversary holds: samples, and the ball within which they may be moved."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from robustsuite.access.meter import Meter
from robustsuite.access.passes import Owners
from robustsuite.core.ball import Ball
from robustsuite.core.traits import Grid


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples and a ball; all that an adversary without any model holds.

    Args:
        x: Inputs `(N, …)` in the model's dtype and raw units; a copy, as are labels, ids, targets and the ball.
        y: Labels `(N,)`.
        ids: Sample ids `(N,)` that key random draws.
        ball: Where adversarial inputs must lie.
        classes: Number of classes.
        target: Labels `(N,)` to reach, or None for an untargeted goal.
        meter: What was spent so far.
        minimum_norm: Whether the nearest adversarial input is wanted, because distances are judged; else any in the
            ball will do, and a sample for which one is found needs no further pass.
        grid: What inputs are rounded to on their way to the model, within the ball; None where it computes in the dtype
            of `x`.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    ball: Ball
    classes: int
    target: Tensor | None = None
    meter: Meter = field(default_factory=Meter)
    minimum_norm: bool = False
    grid: Grid | None = None

    def given(self, x: Tensor, rows: Tensor) -> Tensor:
        """What the model is given for inputs `(n, …)` that belong to samples `rows`."""
        return x if self.grid is None else self.ball.rounded(x, self.x[rows], self.grid)

    def take(self, rows: Tensor) -> Self:
        """The same view of fewer samples."""
        target = None if self.target is None else self.target[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], ids=self.ids[rows], target=target)

    def halves(self) -> tuple[Self, ...]:
        """Two views of half the samples each; none where there is only one sample."""
        if len(self.y) < 2:
            return ()
        index = torch.arange(len(self.y), device=self.y.device)
        return self.take(index[: len(index) // 2]), self.take(index[len(index) // 2 :])

    def goal_reached(self, prediction: Tensor, rows: Tensor | None = None) -> Tensor:
        """Whether these predictions reach the adversary's goal; bool `(n,)`."""
        if self.target is None:
            return prediction != (self.y if rows is None else self.y[rows])
        return prediction == (self.target if rows is None else self.target[rows])

    @cached_property
    def _places(self) -> Tensor:
        return self.ids if self.meter.passes is None else self.meter.passes.places(self.ids)

    def _passing(self, rows: Tensor) -> AbstractContextManager[None]:
        """Passes meanwhile are those of these rows."""
        return nullcontext() if self.meter.passes is None else self.meter.passes.of(Owners(self._places, rows))
