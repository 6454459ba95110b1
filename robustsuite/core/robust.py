"""Robust accuracy and worst cases of evasion: pure functions of per-sample columns.

A sample is robust where the model gets it right and nothing broke it. The judge, follow-up attacks, joined batches,
tables and curves all count by these functions.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

    from robustsuite.core.metric import Metric

VERDICT: Final = "verdict"
"""Column of samples that are robust to an attack and its follow-up attacks; those robust to it alone are `robust`."""
_RADII: Final = ("id", "clean_correct", "robust", "distance")  # columns that tell at which radius a sample is broken
_SLACK: Final = 1 + 1e-6  # distances are kept in float32

Robust = Mapping[int, bool]
"""Sample id -> whether the sample is robust."""


def rates(right: Tensor, robust: Tensor) -> dict[str, Metric]:
    """Robust accuracy and success rates.

    Args:
        right: Which samples the model gets right before anybody attacks; bool `(N,)`.
        robust: Which of them are robust; bool `(N,)`.
    """
    from robustsuite.core.intervals import rate

    return {
        "robust_accuracy": rate(robust, "higher"),
        "attack_success_rate": rate(~robust[right], "lower"),
        "attack_success_rate_all": rate(~robust, "lower"),
    }


def accuracy(robust: Robust) -> Metric:
    """The share of samples that are robust."""
    import torch

    from robustsuite.core.intervals import rate

    return rate(torch.tensor(list(robust.values()), dtype=torch.bool), "higher")


def worst(attacks: Sequence[Robust], broken: Container[int] = ()) -> dict[int, bool]:
    """Which samples are robust to all of several attacks, of those that every one of them was judged on.

    Args:
        attacks: What each attack left, at least one.
        broken: Ids of samples that are known to be broken by something else.
    """
    first, *others = attacks
    common = (i for i in first if all(i in other for other in others))
    return {i: i not in broken and all(attack[i] for attack in attacks) for i in common}


def is_broken(least: float, radius: float) -> bool:
    """Whether a sample that is broken from a least radius on is broken at this one."""
    return least <= radius * _SLACK


def at_radius(radii: Mapping[int, float], radius: float) -> dict[int, bool]:
    """Which samples are robust at a radius, by the least radius at which each is broken."""
    return {i: not is_broken(least, radius) for i, least in radii.items()}


def least_radii(columns: Mapping[str, Tensor], radius: float, *, minimum_norm: bool) -> dict[int, float]:
    """The least radius at which each judged sample is known to be broken by this attack alone; empty without columns.

    0 where the model was wrong from the start, infinite where nothing is known.

    Args:
        columns: A per-sample file.
        radius: Where the attack was judged.
        minimum_norm: Whether distances were judged: then that of the nearest success tells, else the radius.
    """
    if any(name not in columns for name in _RADII):
        return {}
    found = {}
    for i, right, robust, distance in zip(*(columns[name].tolist() for name in _RADII), strict=True):
        known = distance if minimum_norm and not math.isnan(distance) else math.inf
        beyond = known if known > radius else math.inf
        found[i] = 0.0 if not right else beyond if robust else min(known, radius)
    return found
