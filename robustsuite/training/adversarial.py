"""Objectives at the worst inputs that an attack finds in each batch: any attack, and any loss of what it found."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from robustsuite.access.batch_view import BatchView
from robustsuite.core.ball import Ball
from robustsuite.core.isolation import untouched
from robustsuite.core.samples import Batch
from robustsuite.core.streams import Streams
from robustsuite.data.copies import shown
from robustsuite.training.parts import Objective, Step

Ascend = Callable[[Tensor, Tensor], Tensor]
"""Logits `(n, classes)` and the rows `(n,)` of the batch that they belong to, to what an attack ascends `(n,)`."""


@dataclass(frozen=True, kw_only=True)
class AdversarialObjective(Objective):
    """Per-sample losses at the inputs that an attack finds around each batch.

    What it is a loss of stands in `loss`, and what the attack ascends in `ascend`: TRADES, say, ascends the divergence
    from the clean answer, and adds it to the clean loss.

    Args:
        attack: The evasion attack, the same object that would be played against a deployed model.
        ball: Where adversarial inputs lie; bounds are the data's where it declares none.
        warmup: Epochs over which the radius grows linearly.
        free: Whether the attack moves as if inputs had no bounds, and what it found is cut to them afterwards.
    """

    attack: Any
    ball: Ball
    warmup: int = 0
    free: bool = False

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, moved: Tensor, step: Step) -> Tensor:
        """Losses `(B,)` of the network, in training mode, at the batch and at the adversarial inputs `(B, …)`."""

    def ascend(self, network: nn.Module, batch: Batch, step: Step) -> Ascend | None:  # noqa: ARG002
        """What the attack ascends, with the network in eval mode; None, by default, for the attack's own loss."""
        return None

    def __call__(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        """Losses `(B,)` at what the attack found."""
        share = min(1.0, (step.epoch + 1) / (self.warmup + 1))
        moved = self.perturbed(network, batch, step, self.ball.radius * share)
        return self.loss(network, batch, moved, step)

    def perturbed(self, network: nn.Module, batch: Batch, step: Step, radius: float, attack: Any = None) -> Tensor:
        """Adversarial inputs `(B, …)`: against the network in eval mode and with its weights held still.

        Args:
            network: Whose weights are trained.
            batch: Around which inputs.
            step: Of the training.
            radius: Of the ball.
            attack: Another one than the objective's.
        """
        ball, free = self.ball.scaled(radius).within(step.bounds), self.free and attack is None
        with untouched(network):
            view = BatchView(
                x=batch.x,
                y=batch.y,
                ids=batch.ids,
                ball=replace(ball, bounds=None) if free else ball,
                classes=step.classes,
                model=network,
                ascend=self.ascend(network, batch, step) if attack is None else None,
            )
            streams: Streams = step.streams.child("attack")
            moved: Tensor = (self.attack if attack is None else attack)(shown(view), streams).detach()
        return ball.project(moved, batch.x) if free else moved
