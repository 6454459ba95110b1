"""One row of a comparison of two runs, and what it says."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustsuite.core.paired import Difference


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


class Gap(enum.StrEnum):
    """Why a figure that the old run measured has no counterpart that could answer for it."""

    NONE = ""
    MISSING = "missing"
    INCOMPARABLE = "not comparable"
    WITHHELD = "newly withheld"

    def __or__(self, other: str) -> Gap:
        """Of two reasons the graver one, which nobody can excuse."""
        grave = [gap for gap in (self, Gap(other)) if gap not in (Gap.NONE, Gap.MISSING)]
        return grave[0] if grave else Gap(str(self) or other)


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
        p: Two-sided p-value of no difference, None where it is not tested; with several repeats over trainings and
            samples, with one over the samples of these two trained models.
        adjusted: The same after Holm's adjustment over the table.
        p_weights: Two-sided p-value of no difference between these trained models, over samples alone.
        adjusted_weights: The same after Holm's adjustment over the table.
        verdict: What follows.
        gap: Why the old figure has no counterpart that could answer for it.
        repeats_needed: With how many repeats the difference that several leave open (the one seen where it is
            undecided, the largest worsening that the interval holds where there is no evidence) would be called in four
            of five comparisons; None elsewhere, and beyond a thousand.
        flags: Doubts that the new figure has and the old one had not.
        flags_gone: Doubts that only the old figure had.
        withheld: Whether a doubt forbids believing the old and the new figure.
        message: What else has to be said.
        found: What `repeats_needed` is worked out from; in no table.
        words: What the figure is called; empty for its name; in no table.
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
    p_weights: float | None = None
    adjusted_weights: float | None = None
    verdict: Change = Change.BESIDE
    gap: Gap = Gap.NONE
    repeats_needed: int | None = None
    flags: tuple[str, ...] = ()
    flags_gone: tuple[str, ...] = ()
    withheld: tuple[bool, bool] = (False, False)
    message: str = ""
    found: Difference | None = None
    words: str = ""
