"""Objectives at the worst inputs that an attack finds in each batch: any attack, and any loss of what it found."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from robustsuite.access.batch_view import BatchView
from robustsuite.core.ball import Ball
from robustsuite.core.isolation import untouched
from robustsuite.core.samples import Batch
from robustsuite.core.streams import Streams
from robustsuite.data.copies import shown
from robustsuite.training.parts import Objective, Step

UNIONS: Final = ("max", "average")
Ascend = Callable[[Tensor, Tensor], Tensor]
"""Logits `(n, classes)` and the rows `(n,)` of the batch that they belong to, to what an attack ascends `(n,)`."""


@dataclass(frozen=True, kw_only=True)
class AdversarialObjective(Objective):
    """Per-sample losses at the inputs that an attack finds around each batch.

    What it is a loss of stands in `loss`, and what the attack ascends in `ascend`: TRADES, say, ascends the divergence
    from the clean answer, and adds it to the clean loss. It acts in two steps, `found` and `learn`, so that what wraps
    it may learn twice from what was found once.

    Normalisation by batch statistics: each pass that is learnt from uses those of its own inputs and moves the running
    statistics, in the order of the passes; no pass of an attack does. So a loss of two passes (clean, then adversarial)
    moves them twice a step, and the deployed network has about the mean of both.

    Args:
        attack: The evasion attack, the same object that would be played against a deployed model.
        ball: Where adversarial inputs lie; bounds are the data's where it declares none.
        others: More balls, each of which the attack is played in.
        union: What is learnt where there are others: for each sample its worst input of all balls (`max`), or the mean
            of the losses in each (`average`).
        warmup: Epochs over which each radius grows linearly.
        free: Whether the attack moves as if inputs had no bounds, and what it found is cut to them afterwards.

    References:
        Unions: Tramer and Boneh, NeurIPS 2019, arXiv:1904.13000.
    """

    attack: Any
    ball: Ball
    others: tuple[Ball, ...] = ()
    union: str = "max"
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
        return self.learn(network, batch, self.found(network, batch, step), step)

    def found(self, network: nn.Module, batch: Batch, step: Step) -> tuple[Tensor, ...]:
        """What the attack found, in each ball or the worst of all; each `(B, …)`."""
        share = min(1.0, (step.epoch + 1) / (self.warmup + 1))
        each = tuple(self.perturbed(network, batch, step, ball.radius * share, ball=ball) for ball in self.balls)
        return each if len(each) == 1 or self.union == "average" else (self._worst(network, batch, each, step),)

    def learn(self, network: nn.Module, batch: Batch, found: tuple[Tensor, ...], step: Step) -> Tensor:
        """Losses `(B,)`, the mean over what was found."""
        losses = [self.loss(network, batch, moved, step) for moved in found]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean(0)

    @property
    def balls(self) -> tuple[Ball, ...]:
        """All of them."""
        return (self.ball, *self.others)

    def _worst(self, network: nn.Module, batch: Batch, each: tuple[Tensor, ...], step: Step) -> Tensor:
        """For each sample the one of greatest value of what is ascended, or else of the training loss."""
        rows = torch.arange(len(batch.x), device=batch.x.device)
        with untouched(network), torch.no_grad():
            ascend = self.ascend(network, batch, step)
            logits = [network(moved) for moved in each]
            values = [step.loss(found, batch.y) if ascend is None else ascend(found, rows) for found in logits]
        return torch.stack(each)[torch.stack(values).argmax(0), rows]

    def perturbed(
        self,
        network: nn.Module,
        batch: Batch,
        step: Step,
        radius: float,
        attack: Any = None,
        ball: Ball | None = None,
    ) -> Tensor:
        """Adversarial inputs `(B, …)`: against the network in eval mode and with its weights held still.

        Args:
            network: Whose weights are trained.
            batch: Around which inputs.
            step: Of the training.
            radius: Of the ball.
            attack: Another one than the objective's.
            ball: Another one than the objective's first.
        """
        ball, free = (ball or self.ball).scaled(radius).within(step.bounds), self.free and attack is None
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
