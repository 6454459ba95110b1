"""A few samples of a game, and short climbs on them: what the sanity checks and the search for surrogates share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor, nn

from robustsuite.core import losses
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Deployed, Raised, ask_each
from robustsuite.core.errors import ModelError
from robustsuite.core.gradients import input_slope
from robustsuite.core.isolation import differentiable, out_of_memory
from robustsuite.core.rows import per_sample
from robustsuite.core.streams import Streams
from robustsuite.core.traits import Grid
from robustsuite.scenarios.evasion.rules import EvasionRules
from robustsuite.scenarios.victim import Victim

FEW: Final = 64  # samples that sanity checks look at, at most
_FLAT: Final = 0.5


@dataclass(frozen=True, eq=False)
class Look:
    """Some samples that the deployed model gets right, as an evasion game hands them out.

    Args:
        model: The deployed model.
        x: Inputs `(n, …)`.
        y: Labels `(n,)`.
        ids: Sample ids `(n,)`.
        target: Labels to reach `(n,)`, or None.
        ball: Where adversarial inputs must lie.
        classes: Number of classes.
        random: Whether the model answers differently when queried twice.
        grid: What inputs are rounded to on their way to the model; None where it computes as they are.
        alone: Whether each input is asked by itself.
        raised: On which inputs it raised.
    """

    model: Deployed
    x: Tensor
    y: Tensor
    ids: Tensor
    target: Tensor | None
    ball: Ball
    classes: int
    random: bool
    grid: Grid | None = None
    alone: bool = False
    raised: Raised = field(default_factory=Raised)

    @classmethod
    def at(
        cls, victim: Victim, game: EvasionRules, chosen: Tensor, most: int = FEW, raised: Raised | None = None
    ) -> Look:
        """The first of these test samples, `chosen (N,)` bool; what the model raises is counted in `raised`."""
        rows = chosen.nonzero()[:most, 0]
        batch = victim.test.batch(rows, victim.device)
        return cls(
            victim.model,
            victim.given(batch.x),
            batch.y,
            batch.ids,
            game.targets(victim, batch),
            game.ball.within(victim.test.bounds),
            victim.test.classes,
            victim.model.random or not victim.clean.deterministic,
            victim.grid,
            raised=Raised() if raised is None else raised,
        )

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.y)

    def take(self, rows: Tensor | slice) -> Look:
        """Some of these samples."""
        target = None if self.target is None else self.target[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], ids=self.ids[rows], target=target)

    def given(self, x: Tensor) -> Tensor:
        """What the model is given for inputs `(n, …)` of these samples."""
        return x if self.grid is None or len(x) != len(self) else self.ball.rounded(x, self.x, self.grid)

    def margin(self, x: Tensor) -> Tensor:
        """By how much the goal is reached on the deployed model `(n,)`; negative where it is not, or it rejects."""
        gap, rejected = self._answered(x)
        return torch.where(rejected, -gap.abs() - 1e-9, gap)

    def gap(self, x: Tensor) -> Tensor:
        """The margin `(n,)` of the deployed model's scores, whether it rejects or not."""
        return self._answered(x)[0]

    def _answered(self, x: Tensor) -> tuple[Tensor, Tensor]:
        given = self.given(x)
        with torch.no_grad():
            parts = torch.split(given, 1 if self.alone else len(given))
            answers = [ask_each(self.model, part, self.classes, self.raised) for part in parts]
        logits, rejected = (torch.cat(columns) for columns in zip(*answers, strict=True))
        gap = losses.margin(logits.double(), self.y, self.target)
        # An answer that is not finite has no label: wrong, and nobody's target.
        return gap.nan_to_num(math.inf if self.target is None else -math.inf, math.inf, -math.inf), rejected

    def flat(self) -> bool:
        """Whether the scores of most samples stay as they are at another point of the ball, as an arg max does."""
        moved = self.ball.sample(self.x, self.ids, Streams(0).child("flat"))
        return bool((self.margin(moved) == self.margin(self.x)).float().mean() > _FLAT)

    def slope(self, module: nn.Module, x: Tensor, loss: losses.AttackLoss = losses.margin) -> Tensor:
        """Gradient `(n, …)` of the loss through a module; zero where nothing leads there, NaN kept."""
        return self.slopes(module, x, (loss,))[1]

    def slopes(self, module: nn.Module, x: Tensor, wanted: Sequence[losses.AttackLoss]) -> tuple[Tensor, ...]:
        """Logits `(n, classes)` through a module, and the gradient `(n, …)` of each loss, from one forward pass."""
        if self.alone and len(self) > 1:
            return self._in_parts(module, x, wanted, [slice(i, i + 1) for i in range(len(self))])
        try:
            with differentiable():
                leaf = self.given(x).detach().clone().requires_grad_(True)
                logits = module(leaf)
                values = [loss(logits, self.y, self.target) for loss in wanted]
                found = [self._gradient(value, leaf) for value in values]
        except (RuntimeError, MemoryError, ModelError) as error:
            if isinstance(error, ModelError):
                before = replace(self.raised)
                self.margin(x)
                if before == self.raised:
                    raise  # it is what stands before the model that does
                if len(self) < 2:
                    return x.new_full((1, self.classes), math.nan), *(torch.zeros_like(x) for _ in wanted)
            elif not out_of_memory(error) or len(self) < 2:
                raise
        else:
            return logits.detach(), *found
        # Outside of the handler, whose traceback would keep the activations alive.
        return self._in_parts(module, x, wanted, [slice(0, len(self) // 2), slice(len(self) // 2, None)])

    def _in_parts(
        self, module: nn.Module, x: Tensor, wanted: Sequence[losses.AttackLoss], places: Sequence[slice]
    ) -> tuple[Tensor, ...]:
        parts = [self.take(place).slopes(module, x[place], wanted) for place in places]
        return tuple(torch.cat(pair) for pair in zip(*parts, strict=True))

    @staticmethod
    def _gradient(values: Tensor, leaf: Tensor) -> Tensor:
        found = input_slope(values, leaf, keep=True) if values.requires_grad else None
        return torch.zeros_like(leaf) if found is None else found

    def climb(
        self, module: nn.Module, steps: int, loss: losses.AttackLoss = losses.margin, start: Tensor | None = None
    ) -> Tensor:
        """Where so many steps from the samples, or from `start`, lead `(n, …)`, along a module's gradient."""
        x, trend = self.x if start is None else start, torch.zeros_like(self.x)
        for step in range(steps):
            slope = self.slope(module, x, loss).nan_to_num(0.0, 0.0, 0.0)
            size = slope.flatten(1).abs().sum(1).clamp_min(torch.finfo(slope.dtype).tiny)
            trend = 0.7 * trend + slope / per_sample(size, slope)
            length = self.ball.radius * max(0.1, 0.5 * (1 - step / steps))
            x = self.ball.project(self.ball.step(x, trend, length, share=0.05), self.x)
        return x
