"""An exponential moving average of the weights, which is what is validated and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from robustsuite.training.parts import Updater


class Averaging(Updater):
    """A running update beside which an average of its weights is kept, of those after each step.

    After t steps the weights of step s count with decay^(t - s), divided by the sum of all these: the weights before
    the first step count for nothing, however short the training. Running means and variances of batch normalisation are
    averaged alike; every other buffer, and weights that are not trained, are those of the last step.

    Args:
        inner: What moves the weights.
        network: Whose weights.
        decay: In [0, 1); 0 for the last weights.
    """

    def __init__(self, inner: Updater, network: nn.Module, decay: float) -> None:
        self._inner, self._decay = inner, decay
        self._own: list[Tensor] = [weight for weight in network.parameters() if weight.requires_grad]
        for part in network.modules():
            if isinstance(part, _NormBase):
                self._own += [held for held in (part.running_mean, part.running_var) if held is not None]
        self._mean = [held.detach().clone() for held in self._own]
        self._left = 1.0  # decay ** steps
        self.network = inner.network

    def batches(self, epoch: int) -> Iterator[Tensor]:
        """Those of the inner update."""
        return self._inner.batches(epoch)

    def step(self, losses: Tensor) -> None:
        """One step of the inner update, and of the average where it moved the weights."""
        self._inner.step(losses)
        if not self._inner.moved:
            return
        self._left *= self._decay
        with torch.no_grad():
            torch._foreach_lerp_(self._mean, self._own, (1 - self._decay) / (1 - self._left))

    def validated(self, score: float) -> None:
        """Told to the inner update."""
        self._inner.validated(score)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """In this block the network holds the average; its own weights before the first step."""
        with self._inner.watched():
            kept = [held.detach().clone() for held in self._own]
            self._put(self._mean if self._left < 1 else kept)
            try:
                yield
            finally:
                self._put(kept)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for held, value in zip(self._own, values, strict=True):
            held.copy_(value)

    def state(self) -> dict[str, Any]:
        """The average, and the state of the inner update."""
        return {"inner": self._inner.state(), "mean": self._mean, "left": self._left}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self._inner.restore(state["inner"])
        self._left = state["left"]
        for mean, value in zip(self._mean, state["mean"], strict=True):
            mean.copy_(value)

    def facts(self) -> dict[str, Any]:
        """Those of the inner update."""
        return self._inner.facts()

    def finish(self) -> None:
        """Finish the inner update."""
        self._inner.finish()
