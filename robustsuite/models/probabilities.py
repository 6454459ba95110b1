"""Which answers are probabilities, exact or rounded, and which are logits that happen to lie in [0, 1]."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_ONE: Final = 1e-3  # by which the sum of a row may differ from 1 where nothing is rounded to decimals
_DECIMALS: Final = (1, 2, 3, 4)  # to which somebody may have rounded
_GRID: Final = 1e-2  # of a step: how far from a multiple of it a rounded number may lie


def are_probabilities(answer: Tensor) -> bool:
    """Whether every row `(n, classes)` is one of probabilities, as computed or rounded to 1 to 4 decimals.

    Computed ones are non-negative and sum to 1 within the precision of their dtype, and within 0.001. Rounded ones all
    lie on one grid of decimals, and each row is what some probabilities round to: rounding moves each entry by at most
    half a step h, and takes a zero only up, so the sum lies in [1 - h classes, 1 + h (entries that are not 0)]. Logits
    in [0, 1] lie on no such grid, or miss these sums.

    Example:
        >>> are_probabilities(torch.tensor([[0.33, 0.33, 0.33]])), are_probabilities(torch.tensor([[0.3301, 0.3, 0.3]]))
        (True, False)
    """
    if answer.dim() != 2 or answer.shape[1] < 2 or len(answer) == 0 or not answer.is_floating_point():
        return False
    if not bool((answer >= 0).all()):
        return False
    off = (answer.double().sum(1) - 1).abs()
    if bool((off < max(_ONE, torch.finfo(answer.dtype).eps)).all()):
        return True
    step = rounded_to(answer)
    return step > 0 and _round_to(answer.double(), step)


def rounded_to(answer: Tensor) -> float:
    """The coarsest step, 0.1 to 0.0001, of which all entries are multiples; 0 for none, or where the dtype has none."""
    if not bool(((answer >= 0) & (answer <= 1)).all()):
        return 0.0
    eps = torch.finfo(answer.dtype).eps
    for decimals in _DECIMALS:
        steps = answer.double() * 10**decimals
        # Where neighbouring numbers of the dtype lie about a step apart, all of them lie on the grid.
        if eps * 10**decimals < _GRID and bool(((steps - steps.round()).abs() < _GRID).all()):
            return float(10.0**-decimals)
    return 0.0


def _round_to(answer: Tensor, step: float) -> bool:
    half, total = step / 2, answer.sum(1)
    least = 1 - half * answer.shape[1]
    most = 1 + half * (answer > half).sum(1)
    slack = _GRID * step * answer.shape[1]
    return bool(((total > half) & (total >= least - slack) & (total <= most + slack)).all())
