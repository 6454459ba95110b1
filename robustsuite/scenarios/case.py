"""What a game knows of a cell before anything is trained for it."""

from __future__ import annotations

from dataclasses import dataclass

from robustsuite.core.samples import Samples
from robustsuite.training.context import PartOf, no_part
from robustsuite.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Case:
    """What is known of one cell before anything is trained for it.

    Args:
        train: The victim's training data.
        recipe: How the victim is trained, where that is known.
        part: The parts of the data set beside them.
        seed: Of the victim's training.
        test: What is judged, where a game is about some of them.
    """

    train: Samples
    recipe: Recipe | None = None
    part: PartOf = no_part
    seed: int = 0
    test: Samples | None = None
