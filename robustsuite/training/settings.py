"""The knobs of a training that every update shares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from robustsuite.core import checks

OPTIMIZERS: Final = ("sgd", "adam", "adamw")
SCHEDULES: Final = ("constant", "cosine", "one-cycle", "step", "plateau")
SAMPLINGS: Final = ("shuffled", "balanced")
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
        nesterov: Whether SGD looks ahead along its momentum, which must be positive.
        weight_decay: At least 0; it spares norms and biases (parameters of fewer than two dimensions).
        batch_size: At least 1; under DP-SGD the expected size of a Poisson batch.
        accumulate: Batches whose gradients make one step, at least 1: a step is that of one batch of so many times the
            size, but for the statistics of batch normalisation.
        sampling: `shuffled`, or `balanced`: as many samples an epoch, drawn with replacement, each class alike.
        schedule: `constant`, `cosine`, `one-cycle`, `step` (a tenth after one half and three quarters), or `plateau` (a
            tenth after each two epochs without a better validation score).
        warmup: Epochs over which the rate rises linearly before the schedule begins, below `epochs`; `one-cycle` has
            its own.
        validation: Share of the training set held out, in [0, 0.5]; 0 for none.
        patience: Epochs without a better validation score before stopping; None runs them all.
        keep_best: Whether the weights of the best validation epoch are kept rather than the last.
        clip: Greatest norm of a batch's gradient; None for no clipping.
        label_smoothing: In [0, 1).
        focal: Gamma of the focal loss (Lin et al., arXiv:1708.02002), at least 0: losses are multiplied by the gamma-th
            power of how far the label's probability is from 1. 0 for cross-entropy; label smoothing has no meaning
            beside it.
        class_weights: `none`, or `balanced` to weigh a class by the inverse of its frequency.
        augment: What changes training batches, in order: `crop`, `flip`, `mixup`, `cutmix`, or {name: options}.
        ema: Decay in [0, 1) of the moving average of the weights that is validated and kept, such as 0.999; None for
            the weights themselves. However short the training, the first weights are not in it.
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
    nesterov: bool = False
    weight_decay: float = 0.0
    batch_size: int = 128
    accumulate: int = 1
    sampling: str = "shuffled"
    schedule: str = "constant"
    warmup: int = 0
    validation: float = 0.1
    patience: int | None = None
    keep_best: bool = True
    clip: float | None = None
    label_smoothing: float = 0.0
    focal: float = 0.0
    class_weights: str = "none"
    augment: tuple[str | dict[str, Any], ...] = ()
    ema: float | None = None
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
        checks.integer("accumulate", self.accumulate, low=1)
        checks.one_of("sampling", self.sampling, SAMPLINGS)
        checks.one_of("schedule", self.schedule, SCHEDULES)
        checks.integer("warmup", self.warmup, low=0)
        checks.real("validation", self.validation, low=0.0, high=0.5)
        if self.patience is not None:
            checks.integer("patience", self.patience, low=1)
        if self.clip is not None:
            checks.real("clip", self.clip, low=0.0, open_low=True)
        checks.real("label_smoothing", self.label_smoothing, low=0.0, high=1.0, open_high=True)
        checks.real("focal", self.focal, low=0.0)
        checks.one_of("class_weights", self.class_weights, ("none", "balanced"))
        checks.one_of("precision", self.precision, PRECISIONS)
        checks.one_of("normalise", self.normalise, NORMALISATIONS)
        checks.one_of("init", self.init, ("fresh", "checkpoint"))
        if self.ema is not None:
            checks.real("ema", self.ema, low=0.0, high=1.0, open_high=True)
        self._check_together()
        if self.augment:
            from robustsuite.training.augment import augmentations

            augmentations(self.augment)

    def _check_together(self) -> None:
        """Refuse settings that have no meaning beside each other."""
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            expected = "sgd with a positive momentum beside nesterov"
            raise checks.fail(expected, "nesterov", self.nesterov, "set optimizer: sgd and momentum: 0.9, say")
        if self.warmup and self.schedule == "one-cycle":
            raise checks.fail("no warmup beside one-cycle", "warmup", self.warmup, "it has its own; choose cosine, say")
        if self.warmup >= self.epochs:
            raise checks.fail(f"a warmup below the {self.epochs} epochs", "warmup", self.warmup, "lower it")
        if self.schedule == "plateau" and self.validation == 0:
            expected = "a validation share beside plateau, which goes by its score"
            raise checks.fail(expected, "schedule", self.schedule, "set validation: 0.1, say, or choose cosine")
        if self.focal and self.label_smoothing:
            expected = "cross-entropy beside label_smoothing, for the focal loss knows one label a sample"
            raise checks.fail(expected, "focal", self.focal, "drop one of them")
        if self.sampling == self.class_weights == "balanced":
            expected = "class_weights: none beside balanced sampling, which would correct twice"
            raise checks.fail(expected, "sampling", self.sampling, "drop one of them")

    def override(self, changes: dict[str, Any]) -> Training:
        """The same settings with some replaced."""
        return replace(self, **changes)
