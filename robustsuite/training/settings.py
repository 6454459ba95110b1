"""The knobs of a training that every update shares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from robustsuite.core import checks

OPTIMIZERS: Final = ("sgd", "adam", "adamw")
SCHEDULES: Final = ("constant", "cosine", "one-cycle", "step")
PRECISIONS: Final = ("32", "bf16-mixed", "16-mixed", "64")
NORMALISATIONS: Final = ("data", "bounds", "none")


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of one training.

    Args:
        epochs: Passes over the training set, at least 1.
        optimizer: `sgd`, `adam` or `adamw`.
        lr: Peak learning rate, positive.
        momentum: Of SGD, in [0, 1).
        weight_decay: At least 0.
        batch_size: At least 1; under DP-SGD the expected size of a Poisson batch.
        schedule: `constant`, `cosine`, `one-cycle` or `step` (a tenth after one half and three quarters).
        validation: Share of the training set held out, in [0, 0.5]; 0 for none.
        patience: Epochs without a better validation score before stopping; None runs them all.
        keep_best: Whether the weights of the best validation epoch are kept rather than the last.
        clip: Greatest norm of a batch's gradient; None for no clipping.
        label_smoothing: In [0, 1).
        class_weights: `none`, or `balanced` to weigh a class by the inverse of its frequency.
        precision: `32`, `64`, `bf16-mixed` or `16-mixed`. A suite on a device without units for the short type trains
            in `32`, and its keys and records say so.
        normalise: Inputs by the training set's mean and deviation per channel (`data`), by the declared bounds to
            [-1, 1] (`bounds`, which looks at no data), or not at all (`none`).
        init: `fresh`, or `checkpoint` to start from the suite's checkpoint.
    """

    epochs: int = 5
    optimizer: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 128
    schedule: str = "constant"
    validation: float = 0.1
    patience: int | None = None
    keep_best: bool = True
    clip: float | None = None
    label_smoothing: float = 0.0
    class_weights: str = "none"
    precision: str = "32"
    normalise: str = "data"
    init: str = "fresh"

    def __post_init__(self) -> None:
        checks.settle(self)
        checks.integer("epochs", self.epochs, low=1)
        checks.one_of("optimizer", self.optimizer, OPTIMIZERS)
        checks.real("lr", self.lr, low=0.0, open_low=True)
        checks.real("momentum", self.momentum, low=0.0, high=1.0, open_high=True)
        checks.real("weight_decay", self.weight_decay, low=0.0)
        checks.integer("batch_size", self.batch_size, low=1)
        checks.one_of("schedule", self.schedule, SCHEDULES)
        checks.real("validation", self.validation, low=0.0, high=0.5)
        if self.patience is not None:
            checks.integer("patience", self.patience, low=1)
        if self.clip is not None:
            checks.real("clip", self.clip, low=0.0, open_low=True)
        checks.real("label_smoothing", self.label_smoothing, low=0.0, high=1.0, open_high=True)
        checks.one_of("class_weights", self.class_weights, ("none", "balanced"))
        checks.one_of("precision", self.precision, PRECISIONS)
        checks.one_of("normalise", self.normalise, NORMALISATIONS)
        checks.one_of("init", self.init, ("fresh", "checkpoint"))

    def override(self, changes: dict[str, Any]) -> Training:
        """The same settings with some replaced."""
        return replace(self, **changes)
