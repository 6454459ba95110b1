"""The recipes by which the benchmarks train, with as many of their options as this checkout's `Training` has."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.core.errors import RequestError
from robustsuite.core.isolation import untouched
from robustsuite.core.samples import Batch, Samples
from robustsuite.core.streams import Streams
from robustsuite.models.build import ModelSpec
from robustsuite.training import CleanLoss, Recipe, Step, Training

KNOWN: Final = tuple(f.name for f in fields(Training))


@dataclass(frozen=True)
class CropFlip:
    """Each image moved by up to `pad` pixels and, where asked for, mirrored, by draws of its own.

    It stands in for the option `augment` of `Training` where that is not there.

    Args:
        pad: Pixels by which an image is enlarged on each side, as in a mirror, before the crop.
        flip: Whether half of the images are mirrored.
    """

    pad: int = 4
    flip: bool = True

    def __call__(self, batch: Batch, streams: Streams) -> Batch:
        """The same samples, `(B, C, H, W)`."""
        n, _, height, width = batch.x.shape
        down, across = (
            streams.child(name).integers(batch.ids, 2 * self.pad + 1)[:, None] for name in ("down", "across")
        )
        rows = down + torch.arange(height, device=down.device)
        columns = across + torch.arange(width, device=down.device)
        if self.flip:
            mirrored = streams.child("flip").integers(batch.ids, 2)[:, None] == 1
            columns = torch.where(mirrored, columns.flip(1), columns)
        wide = F.pad(batch.x, [self.pad] * 4, mode="reflect").movedim(1, -1)
        each = torch.arange(n, device=down.device)[:, None, None]
        return batch._replace(x=wide[each, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous())


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
        settings: Of `Training`, which it has.
        target: Accuracy to reach on the test samples.
        options: Of the network.
        wished: Settings that help where `Training` has them.
        augment: What to do where it has no `augment`; None for nothing.
    """

    data: str
    model: str
    settings: dict[str, Any]
    target: float
    options: tuple[tuple[str, Any], ...] = ()
    wished: dict[str, Any] = field(default_factory=dict)
    augment: CropFlip | None = None

    def recipe(self, *, plain: bool = False, **changes: Any) -> tuple[Recipe, tuple[str, ...]]:
        """The recipe, and which wishes this checkout does not grant.

        Args:
            plain: Whether to leave the wishes and the augmentation out.
            **changes: Settings to replace.
        """
        training, absent = Training(**{"validation": 0.0, **self.settings, **changes}), []
        for name, value in ({} if plain else self.wished).items():
            try:
                training = training.override({name: value})
            except (TypeError, RequestError):  # no such setting, or none of that form
                absent.append(name)
        recipe = Recipe(build=ModelSpec(self.model, options=self.options), training=training)
        own = self.augment is not None and not plain and ("augment" in absent or "augment" not in self.wished)
        return (replace(recipe, augment=(self.augment,)) if own else recipe), tuple(absent)


_BF16: Final = {"precision": "bf16-mixed", "schedule": "one-cycle"}
_SGD: Final = {**_BF16, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
_CROP_FLIP: Final = ["crop", "flip"]
PLANS: Final = {
    "mnist-one-epoch": Plan("mnist", "cnn", {**_BF16, "epochs": 1, "lr": 3e-3, "batch_size": 64}, 0.99),
    "mnist-two-minutes": Plan(
        "mnist", "cnn", {**_BF16, "epochs": 4, "lr": 3e-3, "batch_size": 64}, 0.994, wished={"ema": 0.995}
    ),
    "cifar10-ten-minutes": Plan(
        "cifar10", "resnet18", {**_SGD, "epochs": 12, "lr": 0.2, "batch_size": 128}, 0.70, (("width", 8),),
        {"nesterov": True, "augment": _CROP_FLIP}, CropFlip(),
    ),
    # Peak rate and length as public trainings of a ResNet-18 in minutes have them; nobody has tuned them here.
    "cifar10-gpu": Plan(
        "cifar10", "resnet18", {**_SGD, "epochs": 15, "lr": 0.4, "batch_size": 512, "label_smoothing": 0.1}, 0.94, (),
        {"nesterov": True, "augment": _CROP_FLIP}, CropFlip(),
    ),
}  # fmt: skip
