"""Learning rates: what a step's is, as a function of how many were made, and of validation scores under `plateau`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from torch.optim import Optimizer

from robustsuite.training.settings import Training

# Smith and Topin, arXiv:1708.07120, with the shares of torch's own: from a 25th of the peak to it in three tenths of
# the steps, and down to a 10,000th of where it began.
_START, _END, _RISE = 25.0, 1e4, 0.3
_PATIENCE: Final = 2  # epochs; torch's 10 would never act in trainings of the usual 5 to 30
_DROP: Final = 0.1  # He et al., arXiv:1512.03385, divide by 10 when the error plateaus


class RateSchedule:
    """Sets an optimizer's rate before its first step, and after each.

    Args:
        optimizer: Whose rate, in all its groups; it is the peak.
        training: Names the schedule.
        steps: In all.
        warmup: Steps over which the rate rises linearly, before the schedule begins on what is left.
    """

    def __init__(self, optimizer: Optimizer, training: Training, steps: int, warmup: int = 0) -> None:
        self._optimizer, self._peak = optimizer, training.lr
        self._shape, self._warmup = shape_of(training, max(steps - warmup, 1)), warmup
        self._constant = training.schedule == "constant" and warmup == 0
        self._steps = 0
        self._best, self._stale, self._drops = -math.inf, 0, 0
        self._watches = training.schedule == "plateau"
        self._set()

    def step(self) -> None:
        """Count a step of the optimizer."""
        self._steps += 1
        if not self._constant:
            self._set()

    def validated(self, score: float) -> None:
        """Under `plateau`, take a tenth of the rate after two epochs without a better score."""
        if not self._watches:
            return
        self._best, self._stale = (score, 0) if score > self._best else (self._best, self._stale + 1)
        if self._stale == _PATIENCE:
            self._stale, self._drops = 0, self._drops + 1
            self._set()

    def _set(self) -> None:
        if self._steps < self._warmup:
            rate = self._peak * ((self._steps + 1) / self._warmup)
        else:
            rate = self._shape(self._steps - self._warmup)
        for group in self._optimizer.param_groups:  # resuming replaces them
            group["lr"] = rate * _DROP**self._drops if self._drops else rate

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs."""
        return {"steps": self._steps, "best": self._best, "stale": self._stale, "drops": self._drops}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._steps, self._best = state["steps"], state["best"]
        self._stale, self._drops = state["stale"], state["drops"]
        self._set()


def shape_of(training: Training, steps: int) -> Callable[[int], float]:
    """The rate of each of so many steps, counted from 0."""
    peak = training.lr
    shapes: dict[str, Callable[[int], float]] = {
        "constant": lambda _: peak,
        "plateau": lambda _: peak,
        "cosine": lambda step: peak * (0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))),
        "step": lambda step: peak * (0.1 ** ((step >= steps / 2) + (step >= 3 * steps / 4))),
        "one-cycle": lambda step: _one_cycle(peak, step, steps),
    }
    return shapes[training.schedule]


def _one_cycle(peak: float, step: int, steps: int) -> float:
    start, top = peak / _START, _RISE * (steps + 1) - 1
    if step <= top:
        return _between(start, peak, step / top)
    return _between(peak, start / _END, min((step - top) / (steps - top), 1.0))


def _between(start: float, end: float, share: float) -> float:
    """Half a cosine wave from start to end."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
