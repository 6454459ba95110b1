"""A copy of a model from before its first query: whoever remembers queries answers otherwise."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from robustsuite.core.deployed import Deployed

Model = TypeVar("Model", nn.Module, Deployed)


def unasked(model: Model, instead: dict[int, nn.Module] | None = None) -> Model | None:
    """A copy with the same weights, not copied, and buffers and attributes of its own.

    State in global variables and closures is shared with the original.

    Args:
        model: What to copy.
        instead: Parts that are copies already, by the identity of what they are copies of.

    Returns:
        The copy; None of what cannot be copied.
    """
    network = model.network if isinstance(model, Deployed) else model
    shared = {id(weight): weight for weight in network.parameters()}
    try:
        copied: Model = copy.deepcopy(model, {**shared, **(instead or {})})
    except Exception:  # a stranger's module may refuse to be copied in any way
        return None
    return copied
