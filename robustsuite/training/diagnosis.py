"""A diagnosis: one thing that went wrong in a training; advice, and no verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

FACT: Final = "diagnoses"
"""Among the facts of a training: what went wrong in it, as a list of mappings."""
UNSEEN: Final = "diagnoses_error"
"""Among the facts of a training: the error because of which nobody could look."""


@dataclass(frozen=True, kw_only=True)
class TrainingFault:
    """One thing that went wrong in a training.

    Args:
        name: What it is, such as `overfitting`.
        seen: What was seen, with its number and its limit.
        value: The number.
        limit: What it should have kept.
        mend: What usually helps.
    """

    name: str
    seen: str
    value: float
    limit: float
    mend: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.name}: {self.seen}; {self.mend}"


def read(facts: Mapping[str, Any]) -> tuple[TrainingFault, ...]:
    """The diagnoses among the facts of a training, as records hold them; what is none is left out."""
    made, listed = [], facts.get(FACT)
    for given in listed if isinstance(listed, (list, tuple)) else ():
        try:
            made.append(TrainingFault(**given))
        except TypeError:  # a record of a later version
            continue
    return tuple(made)


def written(found: Sequence[TrainingFault]) -> list[dict[str, Any]]:
    """As facts hold them."""
    return [asdict(diagnosis) for diagnosis in found]
