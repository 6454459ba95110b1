"""An attack, a defence, a scenario and a panel from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustsuite.access import Inputs
from robustsuite.core import Cost, Streams
from robustsuite.plugins import register
from robustsuite.report import Exhibit, Grid, Section
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


@register.panel("forward-passes")
@dataclass(frozen=True, kw_only=True)
class ForwardPasses:
    """How many forward passes each cell took."""

    asks = Cost

    def __call__(self, exhibits: Sequence[Exhibit[Cost]]) -> Section:
        rows = ((e.record.defense, e.record.attack, str(e.payload.counts.get("forwards", 0))) for e in exhibits)
        return Section("Forward passes", "", (Grid(("defence", "attack", "passes"), tuple(rows)),))
