"""What a network makes of its inputs before its last dense layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def penultimate(network: nn.Module, x: Tensor) -> Tensor:
    """What goes into the dense layer that runs last `(N, width)`, differentiable; logits where there is none.

    Args:
        network: In eval mode.
        x: Inputs `(N, …)`.
    """
    ran, logits = _ran(network, x)
    return (ran[-1][1] if ran else logits).flatten(1)


def last_dense(network: nn.Module, x: Tensor) -> nn.Linear | None:
    """The dense layer that runs last on `x`; None where there is none."""
    with torch.no_grad():
        ran, _ = _ran(network, x)
    return ran[-1][0] if ran else None


def _ran(network: nn.Module, x: Tensor) -> tuple[list[tuple[nn.Linear, Tensor]], Tensor]:
    """The dense layers that ran, in their order, each with its inputs; and the logits."""
    ran: list[tuple[nn.Linear, Tensor]] = []
    layers = [part for part in network.modules() if isinstance(part, nn.Linear)]
    handles = [layer.register_forward_pre_hook(lambda own, given: ran.append((own, given[0]))) for layer in layers]
    try:
        logits: Tensor = network(x)
    finally:
        for handle in handles:
            handle.remove()
    return ran, logits
