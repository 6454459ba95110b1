"""Input gradients, also of networks that give them by `.backward()` alone."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.core.isolation import differentiable


def input_slope(values: Tensor, leaf: Tensor, *, keep: bool = False, by_backward: bool = False) -> Tensor | None:
    """The gradient of a sum with regard to its input, as a copy; None where nothing leads there.

    A network that replays captured graphs writes its next gradient to the same memory.

    Args:
        values: What is summed up.
        leaf: What to differentiate by; weights must ask for no gradient.
        keep: Whether the graph is differentiated again.
        by_backward: Whether to go by `.backward()`, as re-entrant checkpoints ask for.
    """
    slope: Tensor | None
    with differentiable():
        total = values.sum()
        if not by_backward:
            (slope,) = torch.autograd.grad(total, leaf, retain_graph=keep, allow_unused=True)
        else:
            leaf.grad = None
            total.backward(retain_graph=keep)  # type: ignore[no-untyped-call]
            slope, leaf.grad = leaf.grad, None
        return None if slope is None else slope.detach().clone()
