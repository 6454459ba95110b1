"""Whether what a model answers can be judged as logits."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.core.errors import ModelError
from robustsuite.models.probabilities import are_probabilities


def judgeable(logits: Tensor, classes: int) -> None:
    """Refuse answers `(n, k)` that cannot be judged as logits: too few of them, non-finite numbers, probabilities.

    Raises:
        ModelError: With the wrap that mends it.
    """
    if logits.shape[1] == 1:
        raise ModelError(
            f"expected logits of shape (N, {classes}), got shape={tuple(logits.shape)}; a model with one logit is "
            f'declared by rs.wrap(model, output="binary-logit"), one with one probability by output="probabilities"'
        )
    if logits.shape[1] < classes:
        raise ModelError(
            f"expected logits of shape (N, {classes}), got shape={tuple(logits.shape)}; the model must score every "
            f"class that the labels name"
        )
    bad = ~torch.isfinite(logits)
    if bad.any():
        index = [int(i) for i in bad.nonzero()[0]]
        raise ModelError(
            f"expected finite logits, got logits{index}={float(logits[tuple(index)])}; look for NaN "
            f"weights or an overflow"
        )
    if are_probabilities(logits):
        total = float(logits[0].double().sum())
        raise ModelError(
            f"expected logits, got rows in [0, 1] that sum to 1, or round to that (first row sums to {total:.6f}): "
            f'probabilities hide gradients; declare rs.wrap(model, output="probabilities")'
        )
