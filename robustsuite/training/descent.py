"""Plain gradient descent: shuffled or balanced batches, an optimizer, a schedule, accumulation, clipping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.training.parts import Updater
from robustsuite.training.schedules import RateSchedule
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
    """The optimizer that the settings name, over every trainable parameter.

    Weight decay spares norms and biases: parameters of fewer than two dimensions, which scale and shift what the others
    make (He et al., arXiv:1812.01187, section 3.1).
    """
    weights = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": 0.0}]
    if training.weight_decay:
        groups = [
            {"params": [p for p in weights if p.dim() > 1], "weight_decay": training.weight_decay},
            {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]] or groups[:1]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum, nesterov=training.nesterov)
    optimizer = (torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW)(groups, lr=training.lr)
    if not torch.accelerator.is_available():
        # It asks before every step whether a CUDA graph is being captured, and for that loads a driver that is not
        # there: a quarter of a small network's step.
        optimizer._accelerator_graph_capture_health_check = lambda: None  # type: ignore[method-assign]
    return optimizer


class DescentUpdater(Updater):
    """A running gradient descent.

    With `accumulate` the batches of one step come one after the other; the gradient is that of the mean loss over all
    of them, as of one large batch. Batch normalisation takes its statistics from each of them alone.
    """

    def __init__(
        self, network: nn.Module, samples: Samples, training: Training, streams: Streams, fabric: Fabric
    ) -> None:
        self._training, self._streams, self._fabric = training, streams, fabric
        self._n, self._odds = len(samples), None
        if training.sampling == "balanced":
            counts = torch.bincount(samples.y, minlength=samples.classes)
            self._odds = 1 / counts[samples.y].double()
        self._sizes = batch_sizes(self._n, training.batch_size * training.accumulate)
        optimizer = make_optimizer(network, training)
        each = len(self._sizes)
        self._schedule = RateSchedule(optimizer, training, training.epochs * each, training.warmup * each)
        self.network, self._optimizer = network, fabric.setup_optimizers(optimizer)
        self._group, self._first = 0, True

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """A fresh order each epoch, cut into batches of `batch_sizes`.

        The order is a permutation, or under `sampling: balanced` as many rows drawn with replacement, each class alike.
        """
        streams = self._streams.child("order", epoch)
        if self._odds is None:
            order = streams.permutation(self._n)
        else:
            order = torch.multinomial(self._odds, self._n, replacement=True, generator=streams.generator())
        for group in torch.split(order, self._sizes):
            if self._training.accumulate == 1:
                yield group
                continue
            parts = torch.split(group, batch_sizes(len(group), self._training.batch_size))
            for i, part in enumerate(parts):
                self._group, self._first, self.moved = len(group), i == 0, i == len(parts) - 1
                yield part

    def step(self, losses: Tensor) -> None:
        """Add the gradient of these losses; after the last batch of a step, move along that of their mean."""
        if self._first:
            self._optimizer.zero_grad(set_to_none=True)
        self._fabric.backward(losses.sum() / self._group if self._group else losses.mean())
        if not self.moved:
            return
        if self._training.clip is not None:
            self._fabric.clip_gradients(self.network, self._optimizer, max_norm=self._training.clip)
        self._optimizer.step()
        self._schedule.step()

    def validated(self, score: float) -> None:
        """What `plateau` goes by."""
        self._schedule.validated(score)

    def state(self) -> dict[str, Any]:
        """State of the optimizer, the schedule, and the scale of losses in `16-mixed`; no step is half done."""
        scale = self._fabric.strategy.precision.state_dict()
        return {"optimizer": self._optimizer.state_dict(), "schedule": self._schedule.state_dict(), "scale": scale}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._fabric.strategy.precision.load_state_dict(state["scale"])
