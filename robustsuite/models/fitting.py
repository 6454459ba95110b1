"""Whether a network takes the data that it is meant for, found out before anything is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustsuite.core.door import weights_dtype
from robustsuite.core.errors import RequestError
from robustsuite.core.isolation import seeded, untouched
from robustsuite.models.build import ModelSpec

_BATCH = 2
# Weights up to which a pass takes less than the 1.6 s in which torch imports what a pass on its meta device needs.
_SMALL = 20_000_000


def knowable(build: Any) -> bool:
    """Whether this is a network of the suite's own or torchvision's, which may be built to try it; no user's code."""
    return isinstance(build, ModelSpec) and build.factory is None


def refuse_misfit(
    build: Any, classes: int, shape: tuple[int, ...], bounds: tuple[float, float], *, smallest: int = _BATCH
) -> None:
    """Build a network and send zeros through it; a large one without memory (on torch's meta device), where that does.

    Args:
        build: As in a recipe.
        classes: How many there are.
        shape: Of one input.
        bounds: Least and greatest input value.
        smallest: Size of the smallest batch that it is trained on; 0 where it is not trained.

    Raises:
        RequestError: Inputs or batches that the network cannot take, or logits for fewer classes.
        UntrustedFileError: A checkpoint that cannot be trusted.
    """
    place = classes, shape, bounds
    if getattr(build, "checkpoint", None) is None:
        try:
            with torch.device("meta"), seeded(0):
                network = build(*place)
                if sum(weights.numel() for weights in network.parameters()) > _SMALL:
                    _passes(network, place, smallest)
                    return
        except Exception:  # not every operation works without memory: only the real pass refuses
            pass
    with seeded(0):
        _passes(build(*place), place, smallest)


def _passes(network: nn.Module, place: tuple[int, tuple[int, ...], tuple[float, float]], smallest: int) -> None:
    classes, shape, _ = place
    if smallest > 0:
        _pass(network.train(), _zeros(network, min(smallest, _BATCH), shape), classes)
    _pass(network.eval(), _zeros(network, 1, shape), classes)


def refuse_lone(network: nn.Module, x: Tensor, classes: int) -> None:
    """Send one sample through a network in training mode, as a batch of one would, and leave no trace of it.

    Args:
        network: About to be trained.
        x: The sample `(1, …)`.
        classes: How many there are.

    Raises:
        RequestError: The network cannot train on it: batch normalisation of maps of one pixel has nothing to normalise.
    """
    with untouched(network), seeded(0):
        _pass(network.train(), x, classes)


def _zeros(network: nn.Module, n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(n, *shape, dtype=weights_dtype(network) or torch.float32)


def _pass(network: nn.Module, x: Tensor, classes: int) -> None:
    name = type(network).__name__
    try:
        with torch.no_grad():
            logits = network(x)
    except Exception as error:
        told = (str(error).strip().splitlines() or [""])[0]
        mode = f"in training on a batch of {len(x)}" if network.training else "in use"
        raise RequestError(
            f"expected a network that takes the data, got shape={tuple(x.shape[1:])}; {name} raised {mode} "
            f"{type(error).__name__}: {told}: choose another model, or another batch_size"
        ) from error
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < classes:
        raise RequestError(
            f"expected logits of shape (N, {classes}), got logits={found}; choose a model that scores every class"
        )
