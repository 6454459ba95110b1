"""The replaceable parts of a recipe, in the order in which they act, and the losses that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.core.classification import calibration_error, macro
from robustsuite.core.deployed import Deployed
from robustsuite.core.door import labels_of
from robustsuite.core.samples import Batch, Samples
from robustsuite.core.streams import Streams
from robustsuite.training.context import Context, Produced
from robustsuite.training.settings import Training

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits `(B, classes)` and labels `(B,)` to losses `(B,)`."""

_TINY: Final = 1e-12


@runtime_checkable
class Build(Protocol):
    """Classes, input shape and bounds to a network from raw inputs to logits; a frozen dataclass."""

    def __call__(self, classes: int, shape: tuple[int, ...], bounds: tuple[float, float]) -> nn.Module:
        """A fresh network in training mode."""
        ...


@runtime_checkable
class Augment(Protocol):
    """A training batch to a batch, after preparing and before the objective; a frozen dataclass."""

    def __call__(self, batch: Batch, streams: Streams) -> Batch:
        """As many samples with the same ids; draws come from `streams`, keyed by the batch's ids."""
        ...


@runtime_checkable
class Prepare(Protocol):
    """Training data to training data (a filter, say); a frozen dataclass.

    The parts of the data set that it needs stand in its class's `needs`, as they do for `Repair` and `Serve`.
    """

    def __call__(self, samples: Samples, context: Context) -> Samples | Produced[Samples]:
        """The data to train on; the given ones are a copy."""
        ...


@runtime_checkable
class Repair(Protocol):
    """A trained network to a network; a frozen dataclass. Clean data are the part `trusted`."""

    def __call__(self, network: nn.Module, context: Context) -> nn.Module | Produced[nn.Module]:
        """The repaired network."""
        ...


@runtime_checkable
class Serve(Protocol):
    """Deployed model to a deployed model; a frozen dataclass. Thresholds stand on the part `calibration`."""

    def __call__(self, model: Deployed, context: Context) -> Deployed | Produced[Deployed]:
        """The wrapped model."""
        ...


@dataclass(frozen=True)
class Step:
    """What an objective knows of the step that it serves.

    Args:
        loss: The per-sample loss of the training settings (label smoothing and class weights inside).
        streams: Random streams of this step, to be keyed by the batch's sample ids.
        bounds: Bounds of the inputs.
        epoch: Counts from 0.
        classes: Number of classes.
    """

    loss: Loss
    streams: Streams
    bounds: tuple[float, float]
    epoch: int = 0
    classes: int = 0

    def losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Losses `(B,)` of a batch's logits; where samples are mixed, of both labels by their shares."""
        own = self.loss(logits, batch.y)
        if batch.partner is None or batch.share is None:
            return own
        return batch.share * own + (1 - batch.share) * self.loss(logits, batch.partner)


class Objective(ABC):
    """A batch to per-sample losses; a frozen dataclass."""

    #: Whether it knows that samples may be mixed (`Batch.partner`), as `Step.losses` does.
    blends: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        """Per-sample losses `(B,)`, so that batch size never changes what a sample contributes."""

    def validate(self, network: nn.Module, held_out: Samples, step: Step) -> dict[str, float]:
        """Figures on held-out data; the one called `score` picks the best epoch (greater is better)."""
        return clean_validation(network, held_out, step)

    def over(self, history: Sequence[Mapping[str, float]]) -> bool:  # noqa: ARG002
        """Whether training ends after these epochs, whatever are left; by default never."""
        return False

    def told(self, history: Sequence[Mapping[str, float]]) -> tuple[dict[str, Any], tuple[str, ...]]:  # noqa: ARG002
        """What the record must say of these epochs: facts, and flags."""
        return {}, ()


def clean_validation(network: nn.Module, held_out: Samples, step: Step) -> dict[str, float]:
    """Loss, accuracy, macro precision, recall, F1 and calibration error, each `validation_…`, in eval mode.

    The score is the accuracy, ties broken by the loss.
    """
    device = next(network.parameters()).device
    losses, said = 0.0, list[tuple[Tensor, Tensor]]()
    with torch.no_grad():
        for batch in held_out.batches(512, device):
            logits = network(batch.x)
            losses += float(step.loss(logits, batch.y).sum())
            said.append((labels_of(logits).cpu(), logits.float().softmax(1).amax(1).cpu()))
    prediction, confidence = (torch.cat(parts) for parts in zip(*said, strict=True))
    right = prediction == held_out.y
    loss, accuracy = losses / len(held_out), int(right.sum()) / len(held_out)
    found = {f"validation_{k}": v for k, v in macro(prediction, held_out.y, held_out.classes)._asdict().items()}
    found["validation_calibration_error"] = calibration_error(confidence, right)
    score = accuracy - 1e-6 * min(loss, 1e3)
    return {"validation_loss": loss, "validation_accuracy": accuracy, **found, "score": score}


@dataclass(frozen=True)
class CleanLoss(Objective):
    """The training loss on the batch as it is."""

    blends: ClassVar[bool] = True

    def __call__(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        """Losses of the plain batch."""
        return step.losses(network(batch.x), batch)


class Updater(ABC):
    """A running update: owns the batch sampler, the optimizer and any accounting."""

    #: The module to call in training; it may wrap the network (Fabric, Opacus).
    network: nn.Module
    #: Whether the last step moved the weights, and did not only add to their gradients.
    moved: bool = True

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Row indices of each batch of this epoch, int64; a Poisson batch may be empty."""

    @abstractmethod
    def step(self, losses: Tensor) -> None:
        """Move the weights by the gradients of these per-sample losses `(B,)`."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything but the weights that resuming needs, in types that `weights_only` loading accepts."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""

    def facts(self) -> dict[str, Any]:
        """What the record must say of this update (epsilon, delta, sampling …)."""
        return {}

    def validated(self, score: float) -> None:  # noqa: B027  # most updates do not look
        """Told of each epoch's validation score, the greater the better."""

    def watched(self) -> AbstractContextManager[None]:
        """In this block the network holds the weights that are validated, and kept in the end; by default its own."""
        return nullcontext()

    def finish(self) -> None:  # noqa: B027  # most updates leave nothing behind
        """Take off hooks and wrappers; the network is plain again."""


def training_loss(training: Training, samples: Samples) -> Loss:
    """The per-sample loss that the settings describe: cross-entropy with label smoothing, or focal, and class weights.

    A weight multiplies the loss of a sample of its class, all of it: in torch's own weighted loss the share of the
    label that is spread over the classes is weighted by those classes, so that one with few samples gets most of it.
    Weights have a mean of 1 over the samples, however many classes are empty.
    """
    weight: Tensor | None = None
    if training.class_weights == "balanced":
        counts = torch.bincount(samples.y, minlength=samples.classes)
        weight = len(samples) / (int((counts > 0).sum()) * counts.clamp_min(1).double())

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        full = logits if logits.dtype == torch.float64 else logits.float()  # autocast hands over half precision
        plain = F.cross_entropy(full, y, label_smoothing=training.label_smoothing, reduction="none")
        if training.focal:
            # How far the label's probability is from 1; held off 0, where a power below 1 has no gradient.
            plain = plain * (-torch.expm1(-plain)).clamp_min(_TINY) ** training.focal
        return plain if weight is None else plain * weight.to(full)[y]

    return loss
