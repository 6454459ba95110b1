"""What a training gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor

from robustsuite.core.deployed import Deployed

LEARNT: Final = "fit ids"
"""Among the scores of a training: ids of the samples that batches were made of."""


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Args:
        model: The deployed model: repaired, wrapped by every `serve`.
        history: One row of figures per epoch.
        facts: What the record must say (epsilon, delta, train_seconds, …).
        flags: Doubts that the training itself raised, such as `catastrophic-overfitting`.
        scores: What prepares, repairs and serves say of single samples, by stage: `prepare 0 ids` and its columns; see
            `learnt`.
    """

    model: Deployed
    history: tuple[Mapping[str, float], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    scores: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def learnt(self) -> Tensor | None:
        """Ids of the samples that the weights learnt from: of what `prepare` kept, those that were not held out.

        None where nobody can tell.
        """
        return self.scores.get(LEARNT)
