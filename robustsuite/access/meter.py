"""What an attack has spent and seen: counted in samples, whoever passes them on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from torch import Tensor, nn

from robustsuite.access.passes import Passes
from robustsuite.core.deployed import Raised
from robustsuite.core.losses import AttackLoss

_LATE: Final = 0.75  # of an attack, from which on its loss should lie on a plateau


@dataclass(eq=False)
class Meter:
    """What an attack has spent and seen, counted in samples.

    Args:
        forwards: Forward passes.
        backwards: Backward passes.
        gradients: Input gradients at points that were not broken.
        zero_gradients: Those of them that were zero everywhere.
        broken_gradients: Those of them that were not finite; what is not finite in them was taken as zero.
        queries: Queries to an oracle, by sample id.
        broken: Ids of samples that were seen to reach the goal within the ball.
        nearest: Where distances are judged, the least at which a sample was seen to reach the goal, by its id.
        notes: What the record should say, each once.
        passes: Passes by sample, where somebody wants to know.
        raised: On which inputs the deployed model raised.
    """

    forwards: int = 0
    backwards: int = 0
    gradients: int = 0
    zero_gradients: int = 0
    broken_gradients: int = 0
    queries: dict[int, int] = field(default_factory=dict)
    broken: set[int] = field(default_factory=set)
    nearest: dict[int, float] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    passes: Passes | None = None
    raised: Raised = field(default_factory=Raised)
    _climbs: dict[tuple[AttackLoss, int], tuple[float, float]] = field(default_factory=dict, repr=False)

    @property
    def total_queries(self) -> int:
        """Queries over all samples."""
        return sum(self.queries.values())

    def met(self, ids: Tensor, distances: Tensor) -> None:
        """Keep the least distance at which each of these samples was seen to reach the goal."""
        for i, distance in zip(ids.tolist(), distances.tolist(), strict=True):
            if distance < self.nearest.get(i, math.inf):
                self.nearest[i] = distance

    def climbed(self, loss: AttackLoss, ids: Tensor, values: Tensor, done: float) -> None:
        """Keep each sample's greatest loss, before and after three quarters of an attack.

        Args:
            loss: What was maximised, as values of different losses do not compare.
            ids: Sample ids `(n,)`.
            values: Losses `(n,)`.
            done: How much of the attack is done, in [0, 1].
        """
        late = done >= _LATE
        for i, value in zip(ids.tolist(), values.tolist(), strict=True):
            early, last = self._climbs.get((loss, i), (-math.inf, -math.inf))
            self._climbs[loss, i] = (early, max(last, value)) if late else (max(early, value), last)

    def rising(self, tolerance: float = 0.05) -> float:
        """Share of robust samples whose loss the last quarter still raised, by more than this share of its size.

        NaN where no attack told how far it was, or everything is broken.
        """
        gains = [
            late - early > tolerance * max(abs(early), abs(late))
            for (_, i), (early, late) in self._climbs.items()
            if i not in self.broken and math.isfinite(early) and math.isfinite(late)
        ]
        return sum(gains) / len(gains) if gains else math.nan


class Counted(nn.Module):
    """A module whose forward and backward passes are counted, whoever calls it."""

    def __init__(self, inner: nn.Module, meter: Meter) -> None:
        super().__init__()
        self.inner, self._meter = inner, meter

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the module inside."""
        self._meter.forwards += len(x)
        passes = self._meter.passes
        owners = None if passes is None else passes.owners(len(x))
        if passes is not None and owners is not None:
            passes.spend(owners)
        logits: Tensor = self.inner(x)
        if logits.requires_grad:
            n, meter = len(x), self._meter

            def count(gradient: Tensor) -> Tensor:
                meter.backwards += n
                if passes is not None and owners is not None:
                    passes.spend(owners)
                return gradient

            logits.register_hook(count)  # type: ignore[no-untyped-call]
        return logits
