"""The recipes by which the benchmarks train, and an objective that measures between epochs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from robustsuite.core.isolation import untouched
from robustsuite.core.samples import Batch, Samples
from robustsuite.models.build import ModelSpec
from robustsuite.training import CleanLoss, Recipe, Step, Training


@dataclass(frozen=True, eq=False)
class Watched(CleanLoss):
    """The plain objective, which between two epochs measures the network on test samples, with its clock stopped.

    Args:
        test: What to measure on.
        tell: Given each row: `epoch` (that have passed), `seconds` of training, `accuracy`.
        clock: Seconds; processor or wall.
    """

    test: Samples
    tell: Callable[[dict[str, float]], None]
    clock: Callable[[], float] = time.perf_counter
    _state: dict[str, float] = field(default_factory=lambda: {"epoch": 0.0, "outside": 0.0, "start": -1.0})

    def __call__(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        """Losses of the plain batch."""
        now = self.clock()
        if self._state["start"] < 0:
            self._state["start"] = now
        if step.epoch > self._state["epoch"]:
            spent = now - self._state["start"] - self._state["outside"]
            self.tell({"epoch": step.epoch, "seconds": round(spent, 2), "accuracy": accuracy(network, self.test)})
            self._state["epoch"] = step.epoch
            self._state["outside"] += self.clock() - now
        return super().__call__(network, batch, step)

    @property
    def outside(self) -> float:
        """Seconds spent on measuring."""
        return self._state["outside"]


def accuracy(network: nn.Module, test: Samples) -> float:
    """Share of test samples that the network gets right in eval mode, which it leaves as it was."""
    device = next(network.parameters()).device
    with untouched(network), torch.no_grad():
        right = sum(int((network(b.x.to(_dtype(network))).argmax(1) == b.y).sum()) for b in test.batches(500, device))
    return right / len(test)


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype


@dataclass(frozen=True)
class Plan:
    """How to train on one data set.

    Args:
        data: Its name.
        model: Name of the network.
        settings: Of `Training`.
        target: Accuracy to reach on the test samples.
        options: Of the network.
        more: Settings that `plain` leaves out.
    """

    data: str
    model: str
    settings: dict[str, Any]
    target: float
    options: tuple[tuple[str, Any], ...] = ()
    more: dict[str, Any] = field(default_factory=dict)

    def recipe(self, *, plain: bool = False, **changes: Any) -> Recipe:
        """The recipe.

        Args:
            plain: Whether to leave augmentation, averaging and the like out.
            **changes: Settings to replace.
        """
        settings = {"validation": 0.0, **self.settings, **({} if plain else self.more), **changes}
        return Recipe(build=ModelSpec(self.model, options=self.options), training=Training(**settings))


_BF16: Final = {"precision": "bf16-mixed", "schedule": "one-cycle"}
_SGD: Final = {**_BF16, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
_IMAGES: Final = {"nesterov": True, "augment": ["crop", "flip"]}
PLANS: Final = {
    "mnist-one-epoch": Plan("mnist", "cnn", {**_BF16, "epochs": 1, "lr": 3e-3, "batch_size": 64}, 0.99),
    "mnist-two-minutes": Plan(
        "mnist", "cnn", {**_BF16, "epochs": 4, "lr": 3e-3, "batch_size": 64}, 0.994, more={"ema": 0.995}
    ),
    "cifar10-ten-minutes": Plan(
        "cifar10", "resnet18", {**_SGD, "epochs": 12, "lr": 0.2, "batch_size": 128}, 0.70, (("width", 8),), _IMAGES
    ),
    # Peak rate and length as public trainings of a ResNet-18 in minutes have them; nobody has tuned them here.
    "cifar10-gpu": Plan(
        "cifar10", "resnet18", {**_SGD, "epochs": 15, "lr": 0.4, "batch_size": 512, "label_smoothing": 0.1}, 0.94, (),
        _IMAGES,
    ),
}  # fmt: skip
