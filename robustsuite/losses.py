"""Losses that evasion attacks maximise, per sample, for untargeted and targeted goals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch.nn.functional as F
from torch import Tensor

AttackLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Logits `(n, classes)`, labels `(n,)` and targets `(n,)` or None to values `(n,)`; greater is worse for the model."""


def cross_entropy(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Cross-entropy of the true label; for a target, minus that of the target."""
    if target is None:
        return F.cross_entropy(logits, y, reduction="none")
    return -F.cross_entropy(logits, target, reduction="none")


def margin(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Greatest wrong logit minus the true one; for a target, its logit minus the greatest other (positive: fallen)."""
    if target is None:
        true = logits.gather(1, y[:, None])[:, 0]
        return logits.scatter(1, y[:, None], -float("inf")).amax(1) - true
    wanted = logits.gather(1, target[:, None])[:, 0]
    return wanted - logits.scatter(1, target[:, None], -float("inf")).amax(1)


NAMED: Final = {"cross-entropy": cross_entropy, "margin": margin}
"""What an attack's `loss` option may name."""
