"""An attack, a defence and a scenario from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustsuite.access import Inputs
from robustsuite.core import Streams
from robustsuite.plugins import register
from robustsuite.training import Recipe
from robustsuite_shift import guessing as guessing


@register.attack("constant-shift", scenario="evasion", access="blind")
@dataclass(frozen=True, kw_only=True)
class ConstantShift:
    """Move every pixel the same way.

    Args:
        upwards: Whether inputs become greater.
    """

    upwards: bool = True

    def __call__(self, view: Inputs, streams: Streams) -> Tensor:
        direction = torch.ones_like(view.x) if self.upwards else -torch.ones_like(view.x)
        return view.ball.project(view.ball.step(view.x, direction, view.ball.radius, share=1.0), view.x)


@register.defense("longer-training")
@dataclass(frozen=True, kw_only=True)
class LongerTraining:
    """Train for more epochs.

    Args:
        epochs: How many more, at least 1.
    """

    epochs: int = 1

    def __call__(self, recipe: Recipe) -> Recipe:
        more = recipe.training.epochs + self.epochs
        return replace(recipe, training=recipe.training.override({"epochs": more}))
