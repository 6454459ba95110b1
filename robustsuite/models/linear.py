"""Softmax regression."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """Softmax regression on flattened inputs."""

    def __call__(self, classes: int, shape: tuple[int, ...]) -> nn.Module:
        """The body: normalised inputs to logits."""
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
