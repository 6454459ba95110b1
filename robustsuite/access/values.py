"""What is asked of a pass through a model, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

from torch import Tensor

from robustsuite.core.losses import AttackLoss

Transform = Callable[[Tensor, Tensor], Tensor]
"""A differentiable map of inputs `(n, …)` that belong to samples `rows (n,)`, applied before the model."""


class Value(NamedTuple):
    """One forward pass: the loss `value (n,)`, and whether the goal is reached, `broken (n,)`, at the input given."""

    value: Tensor
    broken: Tensor


class ValueAndGrad(NamedTuple):
    """One forward and one backward pass: `value (n,)`, `gradient (n, …)`, `broken (n,)` at the input given."""

    value: Tensor
    gradient: Tensor
    broken: Tensor

    def of(self, rows: Tensor) -> Self:
        """The same of some of the rows."""
        return type(self)(*(part[rows] for part in self))


class Jacobian(NamedTuple):
    """One forward and k backward passes: `values (n, k)`, `gradients (n, k, …)`, `broken (n,)` at the input given."""

    values: Tensor
    gradients: Tensor
    broken: Tensor


class Pass(NamedTuple):
    """What is passed on together: inputs `(n, …)` of samples `rows (n,)`, and what is asked of them."""

    x: Tensor
    rows: Tensor
    loss: AttackLoss
    target: Tensor | None
    transform: Transform | None
    progress: float | None

    def of(self, part: Tensor | slice) -> Pass:
        """The same for some of the inputs."""
        target = None if self.target is None else self.target[part]
        return self._replace(x=self.x[part], rows=self.rows[part], target=target)
