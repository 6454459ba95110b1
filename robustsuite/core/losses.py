"""Losses that evasion attacks maximise, per sample, for untargeted and targeted goals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch.nn.functional as F
from torch import Tensor

from robustsuite.core import checks

AttackLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Logits `(n, classes)`, labels `(n,)` and targets `(n,)` or None to values `(n,)`; greater is worse for the model.

Hashable, so that climbs of one loss are told from those of another."""

_LEAST_FOR_DLR: Final = 4  # classes; its denominator is made of the greatest, the third and the fourth logit
_TINY: Final = 1e-12  # as in AutoAttack's own code


def cross_entropy(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Cross-entropy of the true label; for a target, minus that of the target."""
    if target is None:
        return F.cross_entropy(logits, y, reduction="none")
    return -F.cross_entropy(logits, target, reduction="none")


def margin(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Greatest wrong logit minus the true one; for a target, its logit minus the greatest other (positive: broken)."""
    if target is None:
        true = logits.gather(1, y[:, None])[:, 0]
        return logits.scatter(1, y[:, None], -float("inf")).amax(1) - true
    wanted = logits.gather(1, target[:, None])[:, 0]
    return wanted - logits.scatter(1, target[:, None], -float("inf")).amax(1)


def probability_margin(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """The margin of the probabilities, in [-1, 1]: flat where the label is as good as certain or as good as lost.

    References:
        Xie et al., 2024, arXiv:2411.15210.
    """
    return margin(logits.softmax(1), y, target)


def dlr(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Difference of logits ratio: the margin over a difference of leading logits, so that no scale of them matters.

    It needs 4 classes (untargeted 3). Untargeted, the margin is divided by the greatest logit minus the third, and lies
    in [-1, 1]; for a target by the greatest minus the mean of the third and the fourth.

    References:
        Croce and Hein, ICML 2020, arXiv:2003.01690.
    """
    return margin(logits, y, target) / (_leading(logits, target is not None) + _TINY)


def _leading(logits: Tensor, targeted: bool) -> Tensor:
    top = logits.topk(4 if targeted else 3, dim=1).values
    return top[:, 0] - ((top[:, 2] + top[:, 3]) / 2 if targeted else top[:, 2])


def margin_towards(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Logit of one wrong class minus the true one: untargeted success by way of that class."""
    aim = _aimed(target)
    return (logits.gather(1, aim[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def probability_margin_towards(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Probability of one wrong class minus that of the true one: untargeted success by way of that class."""
    return margin_towards(logits.softmax(1), y, target)


def dlr_towards(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """The targeted difference of logits ratio of arXiv:2003.01690: untargeted success by way of one wrong class."""
    return margin_towards(logits, y, target) / (_leading(logits, True) + _TINY)


def _aimed(target: Tensor | None) -> Tensor:
    if target is None:
        raise checks.fail("a class to aim at", "target", target, "pass target= to value_and_grad")
    return target


NAMED: Final = {
    "cross-entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
    "probability-margin": probability_margin,
}
"""What an attack's `loss` option may name."""

TOWARDS: Final = {
    "cross-entropy": cross_entropy,
    "margin": margin_towards,
    "dlr": dlr_towards,
    "probability-margin": probability_margin_towards,
}
"""The same for an untargeted goal that is pursued class by class."""


def resolve(name: str, classes: int) -> str:
    """The loss that can be taken with so many classes: the margin in place of `dlr` where there are fewer than 4.

    Raises:
        RequestError: No loss of this name.
    """
    checks.one_of("loss", name, NAMED)
    return "margin" if name == "dlr" and classes < _LEAST_FOR_DLR else name
