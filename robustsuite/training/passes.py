"""How many passes a training takes: the cost of a defence, whatever the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class TrainingPasses:
    """Passes of a network for each sample of each step, those of attacks within the objective counted.

    A backward pass is counted with the forward pass that keeps a graph for it. Validation is not counted.

    Args:
        counts: Samples that went forward, backward, and into steps, to count on from.
    """

    def __init__(self, counts: tuple[int, int, int] = (0, 0, 0)) -> None:
        self._forward, self._backward, self._learnt = counts

    @property
    def counts(self) -> tuple[int, int, int]:
        """Samples that went forward, backward, and into steps."""
        return self._forward, self._backward, self._learnt

    @contextmanager
    def of(self, network: nn.Module, samples: int) -> Iterator[None]:
        """Count what this network does for one step on so many samples."""
        hook = network.register_forward_hook(self._note)
        try:
            yield
        finally:
            hook.remove()
        self._learnt += samples

    def _note(self, network: nn.Module, given: tuple[Any, ...], answer: Any) -> None:  # noqa: ARG002
        n = len(given[0])
        self._forward += n
        self._backward += n * (isinstance(answer, Tensor) and answer.requires_grad)

    def facts(self) -> dict[str, Any]:
        """Forward and backward passes for each sample of a step, and both as a multiple of plain training's two."""
        if self._learnt == 0:
            return {}
        forward, backward = self._forward / self._learnt, self._backward / self._learnt
        return {"passes": {"forward": forward, "backward": backward, "multiple": (forward + backward) / 2}}
