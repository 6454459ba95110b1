"""The batch of one training step, as an attack sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustsuite.access.values import Pass
from robustsuite.access.white_box import WhiteBox


@dataclass(frozen=True, eq=False)
class BatchView(WhiteBox):
    """The batch of one training step: the adversary climbs to the end, for a mistake on the way is no reason to stop.

    Nothing is judged or counted, so a pass costs what the network costs.

    Args:
        ascend: What any attack ascends in place of its own loss: logits `(n, classes)` and the rows `(n,)` of this view
            that they belong to, to values `(n,)`; None for the attack's own.
    """

    ascend: Callable[[Tensor, Tensor], Tensor] | None = None

    def _forward(self, asked: Pass, *, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
        ascend, rows = self.ascend, asked.rows
        if ascend is not None:
            asked = asked._replace(loss=lambda logits, y, target: ascend(logits, rows))  # noqa: ARG005
        return super()._forward(asked, gradient=gradient)

    def goal_reached(self, prediction: Tensor, rows: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Never: training wants the greatest loss, not the first mistake."""
        return torch.zeros_like(prediction, dtype=torch.bool)

    def _verdict(self, x: Tensor, logits: Tensor, rows: Tensor, **how: bool) -> Tensor:  # noqa: ARG002
        return torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def _finite(self, gradient: Tensor | None, like: Tensor, unbroken: Tensor) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(like) if gradient is None else gradient

    def _note(self, asked: Pass, values: Tensor, broken: Tensor) -> None:
        pass
