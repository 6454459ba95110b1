"""Multi-layer perceptron."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from robustsuite.core import checks
from robustsuite.models.network import dropped, norm_or_none, optional_norm


@dataclass(frozen=True, kw_only=True)
class MLP:
    """Perceptron on flattened inputs; 784-128-10 on MNIST.

    Args:
        hidden: Width of each hidden layer, at least one layer, each at least 1.
        dropout: Share of hidden units dropped in training, in [0, 1).
        norm: Of the hidden units, before they are activated: `none`, `batch`, `group` or `layer`.
    """

    hidden: tuple[int, ...] = (128,)
    dropout: float = 0.0
    norm: str = "none"

    def __post_init__(self) -> None:
        if not self.hidden:
            raise checks.fail("at least one hidden layer", "hidden", self.hidden, "choose logistic for none")
        for width in self.hidden:
            checks.integer("hidden", width, low=1)
        norm_or_none(self.norm)
        checks.real("dropout", self.dropout, low=0.0, high=1.0, open_high=True)

    def __call__(self, classes: int, shape: tuple[int, ...]) -> nn.Module:
        """The body: normalised inputs to logits."""
        layers: list[nn.Module] = [nn.Flatten()]
        for wide_in, wide_out in pairwise((math.prod(shape), *self.hidden)):
            layers += [nn.Linear(wide_in, wide_out), *optional_norm(self.norm, wide_out, maps=False), nn.ReLU()]
            layers += dropped(self.dropout)
        return nn.Sequential(*layers, nn.Linear(self.hidden[-1], classes))
