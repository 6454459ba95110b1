"""One row of a comparison of two runs, and what it says."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Change(enum.StrEnum):
    """What a row of a comparison says."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    NO_WORSE = "no worse"
    NO_EVIDENCE = "no evidence"
    UNDECIDED = "undecided"
    IN_DOUBT = "in doubt"
    NOT_COMPARABLE = "not comparable"
    ONLY_OLD = "only in old"
    ONLY_NEW = "only in new"
    BESIDE = "not tested"


@dataclass(frozen=True)
class Row:
    """One figure of one cell, old against new, over all joined repeats.

    Args:
        defense: Label of the defence.
        attack: Label of the attack (`none` for the clean evaluation, `worst-case` for all evasion attacks together).
        scenario: The game.
        norm: Norm of the ball, empty where there is none.
        radius: Its radius, None where there is none.
        metric: Name of the figure.
        better: `higher`, `lower` or empty.
        unit: Its unit.
        repeats: How many independent trainings were joined.
        n: Samples common to both sides, of one repeat; 0 where none are counted.
        old: The old figure, on the common samples, mean over repeats; None where there is none.
        new: The new figure.
        difference: New less old.
        low: Lower end of the 95 % interval of the difference, None where it is not tested.
        high: Upper end.
        worse: Samples that were right and are wrong (for the defender), over all repeats; None where none are counted.
        improved: Samples that were wrong and are right.
        p: Two-sided p-value of no difference, None where it is not tested.
        adjusted: The same after Holm's adjustment over the table.
        verdict: What follows.
        flags: Doubts that the new figure has and the old one had not.
        flags_gone: Doubts that only the old figure had.
        withheld: Whether a doubt forbids believing the old and the new figure.
        message: What else has to be said.
    """

    defense: str
    attack: str
    scenario: str
    norm: str = ""
    radius: float | None = None
    metric: str = ""
    better: str = ""
    unit: str = ""
    repeats: int = 0
    n: int = 0
    old: float | None = None
    new: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    worse: int | None = None
    improved: int | None = None
    p: float | None = None
    adjusted: float | None = None
    verdict: Change = Change.BESIDE
    flags: tuple[str, ...] = ()
    flags_gone: tuple[str, ...] = ()
    withheld: tuple[bool, bool] = (False, False)
    message: str = ""
