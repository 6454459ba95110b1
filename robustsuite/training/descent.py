"""Plain gradient descent: shuffled batches, an optimizer, a schedule, clipping."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from robustsuite.core.streams import Streams
from robustsuite.training.parts import Updater
from robustsuite.training.settings import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def batch_sizes(n: int, size: int) -> list[int]:
    """Sizes of the batches of one epoch; the last one is shorter where it does not divide.

    One sample that would be left over alone joins the batch before: batch normalisation cannot train on one.

    Args:
        n: Number of samples, at least 1.
        size: Of a batch, at least 1.

    Example:
        >>> batch_sizes(10, 4), batch_sizes(9, 4), batch_sizes(2, 1)
        ([4, 4, 2], [4, 5], [1, 1])
    """
    sizes = [size] * (n // size) + [n % size] * (n % size > 0)
    return [*sizes[:-2], size + 1] if len(sizes) > 1 and sizes[-1] == 1 < size else sizes


def make_optimizer(network: nn.Module, training: Training) -> Optimizer:
    """The optimizer that the settings name, over every trainable parameter."""
    weights = [p for p in network.parameters() if p.requires_grad]
    if training.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay)
    make = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
    return make(weights, lr=training.lr, weight_decay=training.weight_decay)


def make_schedule(optimizer: Optimizer, training: Training, steps: int) -> LRScheduler:
    """The learning-rate schedule over `steps` steps in all."""
    if training.schedule == "one-cycle":
        # Only the rate: cycling momentum would overwrite the one that is asked for, and Adam's beta 1 with it.
        return OneCycleLR(optimizer, max_lr=training.lr, total_steps=steps + 1, cycle_momentum=False)
    shapes = {
        "constant": lambda _: 1.0,
        "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0))),
        "step": lambda step: 0.1 ** ((step >= steps / 2) + (step >= 3 * steps / 4)),
    }
    return LambdaLR(optimizer, shapes[training.schedule])


class DescentUpdater(Updater):
    """A running gradient descent."""

    def __init__(self, network: nn.Module, n: int, training: Training, streams: Streams, fabric: Fabric) -> None:
        self._n, self._training, self._streams, self._fabric = n, training, streams, fabric
        optimizer = make_optimizer(network, training)
        steps = training.epochs * len(batch_sizes(n, training.batch_size))
        self._schedule = make_schedule(optimizer, training, steps)
        self.network, self._optimizer = network, fabric.setup_optimizers(optimizer)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """A fresh permutation each epoch, cut into batches of `batch_sizes`."""
        order = self._streams.child("order", epoch).permutation(self._n)
        yield from torch.split(order, batch_sizes(self._n, self._training.batch_size))

    def step(self, losses: Tensor) -> None:
        """One step along the gradient of the mean loss."""
        self._optimizer.zero_grad(set_to_none=True)
        self._fabric.backward(losses.mean())
        if self._training.clip is not None:
            self._fabric.clip_gradients(self.network, self._optimizer, max_norm=self._training.clip)
        self._optimizer.step()
        self._schedule.step()

    def state(self) -> dict[str, Any]:
        """State of the optimizer and the schedule."""
        schedule = {k: v for k, v in self._schedule.state_dict().items() if k != "lr_lambdas"}
        return {"optimizer": self._optimizer.state_dict(), "schedule": schedule}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict({**self._schedule.state_dict(), **state["schedule"]})
