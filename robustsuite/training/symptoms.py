"""What usually goes wrong in a training, told from its own figures and a look at one batch.

Each rule is a function of an `Observed`, to a `TrainingFault` or None. Limits have their source, or the measurement
that chose them, beside them; "ordinary" means the trainings of `tests/training/test_diagnoses.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from robustsuite.training.diagnosis import TrainingFault
from robustsuite.training.probe import Probe
from robustsuite.training.settings import Training

_UNMOVED: Final = 0.95  # of the constant answer's loss; ordinary trainings: at most 0.61
_ONE_CLASS: Final = 0.99  # of a batch: a rounding below "everything"
_GAP: Final = 0.15  # of accuracy; ordinary trainings: at most 0.13
_DEAD: Final = 0.8  # of one layer's units; ordinary trainings: at most 0.54, which does no harm; dead ones: 1
# Gradient at the first layer's output over that at the last's. Glorot and Bengio, AISTATS 2010, see factors below 10
# for each layer where it is sound. Ordinary trainings: 0.5 to 12.
_VANISHED: Final = 1e-3
_EXPLODED: Final = 1e3
_DIVERGED: Final = 10.0  # constant answer's losses; a training that ends there answers wrongly with great confidence
_IMBALANCE: Final = 10.0  # Buda et al., Neural Networks 2018, arXiv:1710.05381: from there on it costs accuracy
_SCALE: Final = 10.0  # LeCun et al., Efficient BackProp, 1998, ask for 1; pixels of 0 to 255 have some 100
_MEMORISED: Final = 0.2  # of accuracy above chance, on samples that were trained on
_FEW: Final = 30  # held-out samples; of fewer, no accuracy can be told from chance


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What rules look at.

    Args:
        training: The settings.
        history: One row of figures per epoch.
        probe: One look at the trained network.
        labels: Of the samples that may be looked at `(n,)`.
        held_out: Labels of the held-out samples; None for none.
        learnt: Whether the probe's samples are some that were trained on.
    """

    training: Training
    history: Sequence[Mapping[str, float]]
    probe: Probe
    labels: Tensor
    held_out: Tensor | None
    learnt: bool

    @property
    def held_accuracy(self) -> float | None:
        """On held-out samples, of the epoch that is kept; None where nobody measured it."""
        seen = [row["validation_accuracy"] for row in self.history if "validation_accuracy" in row]
        if not seen or self.held_out is None:
            return None
        return max(seen) if self.training.keep_best else seen[-1]

    @property
    def ignorant(self) -> bool:
        """Whether held-out samples, or without any the probe's, are answered no better than by one class for all."""
        held = self.held_accuracy
        if held is None or self.held_out is None or len(self.held_out) < _FEW:
            return self.probe.accuracy <= _chance(self.probe.y)
        return held <= _chance(self.held_out)


def diagnosed(case: Observed) -> tuple[TrainingFault, ...]:
    """All that is wrong with a training, the most telling first."""
    found = (rule(case) for rule in _RULES)
    return tuple(diagnosis for diagnosis in found if diagnosis is not None)


def _chance(y: Tensor) -> float:
    """The accuracy up to which nothing is told from always answering the commonest class: 3 standard errors above."""
    share = float(y.bincount().max()) / len(y)
    return share + 3 * math.sqrt(share * (1 - share) / len(y))


def _not_normalised(case: Observed) -> TrainingFault | None:
    scale = case.probe.scale
    if not scale > _SCALE:
        return None
    return TrainingFault(
        name="data not normalised",
        seen=f"what the first layer is given has a root mean square of {scale:.3g}, where about 1 is right and "
        f"{_SCALE:g} the limit",
        value=scale,
        limit=_SCALE,
        mend="set normalise: data, or normalise inside the network",
    )


def _shuffled(case: Observed) -> TrainingFault | None:
    held, probe = case.held_accuracy, case.probe
    if not case.ignorant:
        return None
    if held is not None and case.learnt and probe.accuracy > _chance(probe.y) + _MEMORISED:
        limit = _chance(probe.y) + _MEMORISED
        seen, value = f"{probe.accuracy:.2f} of the training samples are right, and {held:.2f} of the held-out", held
        seen, limit = f"{seen}, where one answer for all has up to {limit - _MEMORISED:.2f}", limit - _MEMORISED
    elif probe.neighbours <= probe.neighbours_chance:
        value, limit = probe.neighbours, probe.neighbours_chance
        seen = f"nearest neighbours share their label as often as by chance, {value:.2f} (up to {limit:.2f})"
    else:
        return None
    mend = "check that inputs and labels are in the same order and that labels are read right"
    return TrainingFault(name="labels shuffled", seen=seen, value=value, limit=limit, mend=mend)


def _not_falling(case: Observed) -> TrainingFault | None:
    probe = case.probe
    limit = _UNMOVED * probe.constant
    if probe.loss < limit or not case.ignorant:
        return None
    return TrainingFault(
        name="loss not falling",
        seen=f"the loss is {probe.loss:.3g}, where one answer for all inputs has {probe.constant:.3g} and the limit is "
        f"{limit:.3g}",
        value=probe.loss,
        limit=limit,
        mend="look for the learning rate by `--find lr` (rs.find_lr), and try to overfit 20 samples first",
    )


def _one_class(case: Observed) -> TrainingFault | None:
    probe = case.probe
    counts = probe.prediction.bincount()
    top = int(counts.argmax())
    share, others = float(counts[top]) / len(probe.y), int((probe.y != top).sum())
    if share < _ONE_CLASS or others < max(3.0, len(probe.y) * (1 - _ONE_CLASS)):
        return None
    return TrainingFault(
        name="one class predicted",
        seen=f"class {top} is the answer to {share:.0%} of {len(probe.y)} samples (limit {_ONE_CLASS:.0%}), "
        f"{others} of which are of other classes",
        value=share,
        limit=_ONE_CLASS,
        mend="lower lr, train longer, or set class_weights: balanced where that class is the commonest",
    )


def _overfitting(case: Observed) -> TrainingFault | None:
    held, probe = case.held_accuracy, case.probe
    if held is None or case.held_out is None or not case.learnt or case.ignorant:
        return None
    spread = probe.accuracy * (1 - probe.accuracy) / len(probe.y) + held * (1 - held) / len(case.held_out)
    gap, limit = probe.accuracy - held, max(_GAP, 3 * math.sqrt(spread))
    if gap <= limit:
        return None
    return TrainingFault(
        name="overfitting",
        seen=f"{probe.accuracy:.2f} of the training samples are right and {held:.2f} of the held-out, {gap:.2f} less "
        f"(limit {limit:.2f})",
        value=gap,
        limit=limit,
        mend="add data or augmentation, raise weight_decay or dropout, take a smaller network, or set patience",
    )


def _dead(case: Observed) -> TrainingFault | None:
    dead = case.probe.dead
    if not dead > _DEAD:
        return None
    return TrainingFault(
        name="dead units",
        seen=f"{dead:.0%} of the rectified units of one layer are 0 for all {len(case.probe.y)} samples (limit "
        f"{_DEAD:.0%})",
        value=dead,
        limit=_DEAD,
        mend="lower lr, normalise the data, or take a leaky activation",
    )


def _vanishing(case: Observed) -> TrainingFault | None:
    gain = case.probe.gain
    if not gain < _VANISHED or _dead(case) is not None:  # nothing passes through dead units
        return None
    return TrainingFault(
        name="vanishing gradients",
        seen=f"the gradient at the first layer is {gain:.2g} of that at the last (limit {_VANISHED:g})",
        value=gain,
        limit=_VANISHED,
        mend="take relu, normalisation layers or residual connections, or a shallower network",
    )


def _exploding(case: Observed) -> TrainingFault | None:
    gain, most = case.probe.gain, max((row["train_loss"] for row in case.history), default=0.0)
    limit = _DIVERGED * case.probe.constant
    if gain > _EXPLODED:
        seen, value = f"the gradient at the first layer is {gain:.2g} times that at the last", gain
        seen, limit = f"{seen} (limit {_EXPLODED:g})", _EXPLODED
    elif most > limit:
        seen, value = f"the mean loss of an epoch was {most:.3g} (limit {limit:.3g})", most
    else:
        return None
    mend = "lower lr, set clip: 1, start from smaller weights, or add normalisation layers"
    return TrainingFault(name="exploding gradients", seen=seen, value=value, limit=limit, mend=mend)


def _imbalance(case: Observed) -> TrainingFault | None:
    counts = case.labels.bincount()
    counts = counts[counts > 0]
    ratio = float(counts.max()) / float(counts.min())
    if ratio < _IMBALANCE or len(counts) < 2 or _weighted(case.training):
        return None
    return TrainingFault(
        name="imbalance",
        seen=f"the commonest class has {ratio:.3g} times as many samples as the rarest, {int(counts.max())} and "
        f"{int(counts.min())} (limit {_IMBALANCE:g})",
        value=ratio,
        limit=_IMBALANCE,
        mend="set class_weights: balanced or sampling: balanced, and read macro recall rather than accuracy",
    )


def _weighted(training: Training) -> bool:
    return training.class_weights != "none" or training.sampling == "balanced"


_RULES: Final[tuple[Callable[[Observed], TrainingFault | None], ...]] = (
    _exploding,
    _vanishing,
    _dead,
    _not_normalised,
    _shuffled,
    _imbalance,
    _one_class,
    _not_falling,
    _overfitting,
)
