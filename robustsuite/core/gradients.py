"""Input gradients, also of networks that give them by `.backward()` alone, or that raise on the way back."""

from __future__ import annotations

import torch
from torch import Tensor

from robustsuite.core.isolation import differentiable, out_of_memory


def input_slope(values: Tensor, leaf: Tensor, *, keep: bool = False, by_backward: bool = False) -> Tensor | None:
    """The gradient of a sum with regard to its input, as a copy; None where nothing leads there.

    A network that replays captured graphs writes its next gradient to the same memory. A backward pass that raises
    (a derivative that nobody wrote, a stranger's own) gives no gradient, as one that leads nowhere; out of memory goes
    on as it is.

    Args:
        values: What is summed up.
        leaf: What to differentiate by; weights must ask for no gradient.
        keep: Whether the graph is differentiated again; then `.backward()` is tried too where the other way raises.
        by_backward: Whether to go by `.backward()`, as re-entrant checkpoints ask for.
    """
    ways = (True,) if by_backward else (False, True) if keep else (False,)
    for way in ways:
        try:
            return _slope(values, leaf, keep=keep, by_backward=way)
        except Exception as error:  # the backward pass is a stranger's code too
            if out_of_memory(error):
                raise
    return None


def _slope(values: Tensor, leaf: Tensor, *, keep: bool, by_backward: bool) -> Tensor | None:
    with differentiable():
        total = values.sum()
        slope: Tensor | None
        if not by_backward:
            (slope,) = torch.autograd.grad(total, leaf, retain_graph=keep, allow_unused=True)
        else:
            leaf.grad = None
            try:
                total.backward(retain_graph=keep)  # type: ignore[no-untyped-call]
            finally:
                slope, leaf.grad = leaf.grad, None
        return None if slope is None else slope.detach().clone()
