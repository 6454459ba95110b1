"""Free adversarial training: one backward pass moves the weights and the perturbation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustsuite.core import Ball, Batch, Samples, Streams, checks
from robustsuite.defenses.adversarial_family import PGD_10, Monitored, ball_of, inner_attack
from robustsuite.plugins import register
from robustsuite.training import GradientDescent, Recipe, Step, Training, Updater

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Shifted(nn.Module):
    """A network that trains at inputs moved by a perturbation, which each backward pass moves on.

    Args:
        network: Whose weights are trained; in eval mode it answers inputs as they are.
        ball: Around zero, where the perturbation lies; its bounds cut the moved inputs.
    """

    def __init__(self, network: nn.Module, ball: Ball) -> None:
        super().__init__()
        self.network, self._ball = network, replace(ball, bounds=None)
        self._bounds = ball.bounds or (-math.inf, math.inf)
        self.moved: Tensor | None = None  # (B, …), row i of every batch in turn

    def forward(self, x: Tensor) -> Tensor:
        """Raw inputs `(N, …)` to logits."""
        if self.training:
            x = (x + self._held(x)).detach().clamp(*self._bounds).requires_grad_()
            x.register_hook(self._climb)  # type: ignore[no-untyped-call]
        logits: Tensor = self.network(x)
        return logits

    def _held(self, like: Tensor) -> Tensor:
        """The perturbation of as many rows; 0 where no batch was as long before."""
        known = like[:0] if self.moved is None else self.moved[: len(like)]
        return torch.cat([known, torch.zeros_like(like[len(known) :])])

    def _climb(self, slope: Tensor) -> None:
        ahead = self._ball.step(self._held(slope), slope, self._ball.radius, share=0.05)  # in l1 as FGSM spreads it
        rest = slope[:0] if self.moved is None else self.moved[len(slope) :]
        self.moved = torch.cat([self._ball.project(ahead, torch.zeros_like(slope)), rest])


class ReplayedDescent(Updater):
    """A descent that takes each batch several times in a row."""

    def __init__(self, inner: Updater, ball: Ball, replays: int) -> None:
        self._inner, self._replays = inner, replays
        self.network = self._shifted = Shifted(inner.network, ball)

    def validated(self, score: float) -> None:
        """Told to the descent."""
        self._inner.validated(score)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Each batch of the descent, replayed."""
        for index in self._inner.batches(epoch):
            yield from itertools.repeat(index, self._replays)

    def step(self, losses: Tensor) -> None:
        """One step of the weights, and one of the perturbation."""
        self._inner.step(losses)

    def state(self) -> dict[str, Any]:
        """State of the descent, and the perturbation."""
        return {"inner": self._inner.state(), "moved": self._shifted.moved}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self._inner.restore(state["inner"])
        held = state["moved"]
        self._shifted.moved = None if held is None else held.to(next(self.network.parameters()).device)

    def facts(self) -> dict[str, Any]:
        """How often each batch is taken."""
        return {**self._inner.facts(), "replays": self._replays}

    def finish(self) -> None:
        """As the descent does."""
        self._inner.finish()


@dataclass(frozen=True)
class Replayed(GradientDescent):
    """Mini-batch gradient descent that replays each batch.

    Args:
        ball: Where the perturbation lies.
        replays: Of each batch.
        warmup: Of the schedule, in epochs of plain training.
    """

    ball: Ball
    replays: int
    warmup: int

    def start(
        self, network: nn.Module, samples: Samples, training: Training, streams: Streams, fabric: Fabric
    ) -> Updater:
        """Begin a descent on `network`, whose schedule counts every replay."""
        longer = training.override({"epochs": self.replays * training.epochs, "warmup": self.warmup})
        inner = GradientDescent().start(network, samples, longer, streams, fabric)
        return ReplayedDescent(inner, self.ball.within(samples.bounds), self.replays)


@dataclass(frozen=True, kw_only=True)
class FreeLoss(Monitored):
    """The training loss, at inputs that the network itself moves; the attack is only what the monitor compares with."""

    def found(self, network: nn.Module, batch: Batch, step: Step) -> tuple[Tensor, ...]:  # noqa: ARG002
        """The batch as it is."""
        return (batch.x,)

    def loss(self, network: nn.Module, batch: Batch, moved: Tensor, step: Step) -> Tensor:
        """Losses `(B,)`."""
        return step.loss(network(moved), batch.y)


@register.defense("free-training", taxonomy=("AML.M0003", "NISTAML.022", "ML01:2023"))
@dataclass(frozen=True, kw_only=True)
class FreeTraining:
    """Train on each batch several times in a row, moving the inputs by the gradient that moves the weights.

    It replaces objective and update. Each backward pass gives both gradients, so `replays` steps of the perturbation
    cost no pass of their own; epochs are divided by `replays` (rounded up), so that the whole costs what plain training
    costs. The perturbation steps by a radius, stays in the ball, and goes on from batch to batch, row by row; what the
    network sees is cut to the input bounds, and the gradient is the one there. Both gradients are taken in training
    mode, in which each pass moves the running statistics of batch normalisation: `replays` times a batch. Monitor, best
    weights and flags are those of `adversarial-training`, the monitor's attack of training being one step from a random
    start. It does not defend against other balls. Steps of a whole radius collapse soon, and the monitor then ends the
    training: on the small images of the tests, linf 0.05, it withstood PGD for 9 % (2 replays) and 14 % (4) of the
    samples, where `fgsm-rs` and `n-fgsm` at equal cost came to 19 % and 26 %, and noise to 6 %.

    Args:
        replays: Of each batch, at least 1.
        norm: `linf`, `l2` or `l1`; by default the threat's.
        radius: In raw input units, at least 0, a number or text such as "8/255"; by default the threat's.

    Raises:
        RequestError: No radius in options or threat, or the training accumulates gradients.

    References:
        Shafahi et al., NeurIPS 2019, arXiv:1904.12843 (8 replays on CIFAR-10, 4 on ImageNet).
    """

    replays: int = 4
    norm: str | None = None
    radius: float | str | None = None

    def __post_init__(self) -> None:
        checks.integer("replays", self.replays, low=1)

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with objective and update replaced, and fewer epochs."""
        ball, one_step = ball_of(self, recipe.threat), inner_attack({"fgsm": {"random_start": True}})
        loss = FreeLoss(attack=one_step, ball=ball, monitor=inner_attack(PGD_10))
        old = recipe.training
        if old.accumulate != 1:
            remedy = "each replay is a step of its own: raise batch_size, or choose adversarial-training"
            raise checks.fail("accumulate=1 under free-training", "accumulate", old.accumulate, remedy)
        recipe = recipe.with_objective(loss).with_update(Replayed(ball, self.replays, old.warmup))
        training = old.override({"epochs": math.ceil(old.epochs / self.replays), "warmup": 0})
        return replace(recipe, training=training)
