"""A release against the one before: what got worse, by how much, and whether that is more than chance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robustsuite import checks
from robustsuite.paired import holm
from robustsuite.report.changes import Change, Row
from robustsuite.report.differences import rows
from robustsuite.report.pairs import Run
from robustsuite.report.report import Report

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ALPHA", "MIN_EFFECT", "Change", "Comparison", "Row", "compare"]

ALPHA: Final = 0.05
MIN_EFFECT: Final = 0.005  # two trainings of one recipe differ by about as much, and no release waits for less
_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Comparison:
    """Every figure of two runs side by side, and what follows.

    Args:
        rows: In plan order; nothing that either run has is left out but what `notes` name.
        alpha: Level that the whole table keeps.
        min_effect: Least worsening that counts, as a rate.
        notes: What holds for all rows.
    """

    rows: tuple[Row, ...]
    alpha: float = ALPHA
    min_effect: float = MIN_EFFECT
    notes: tuple[str, ...] = ()

    @property
    def regressions(self) -> tuple[Row, ...]:
        """Rows that got worse."""
        return tuple(row for row in self.rows if row.verdict is Change.REGRESSION)

    @property
    def improvements(self) -> tuple[Row, ...]:
        """Rows that got better."""
        return tuple(row for row in self.rows if row.verdict is Change.IMPROVEMENT)

    @property
    def tested(self) -> tuple[Row, ...]:
        """Rows whose samples could be paired."""
        return tuple(row for row in self.rows if row.p is not None)

    @property
    def undecided(self) -> tuple[Row, ...]:
        """Rows that look worse, where trainings scatter as much or the old figure was under doubt."""
        return tuple(
            row
            for row in self.tested
            if row.verdict is Change.UNDECIDED or (row.verdict is Change.IN_DOUBT and _gain(row) < 0)
        )

    @property
    def outcome(self) -> str:
        """`failed` with a regression; else `inconclusive` with no row tested or one undecided; else `passed`."""
        if self.regressions:
            return "failed"
        return "passed" if self.tested and not self.undecided else "inconclusive"

    @property
    def frame(self) -> pd.DataFrame:
        """One line a row: the fields of `Row`, flags joined by `;`."""
        import pandas as pd

        return pd.DataFrame([_plain(row, joined=True) for row in self.rows], columns=list(_COLUMNS))

    def summary(self) -> str:
        """The verdict in a sentence or two."""
        if not self.tested and not self.regressions:
            return "Nothing could be compared: no figure has samples that both runs judged."
        counts = [_count(self.regressions, "regression"), _count(self.improvements, "improvement")]
        told = f"{' and '.join(counts)} among {_count(self.tested, 'tested figure')}."
        if self.undecided:
            first = self.undecided[0]
            settles = "more repeats" if first.verdict is Change.UNDECIDED else "a run whose figures carry no doubt"
            many = "figures look worse and are" if len(self.undecided) > 1 else "figure looks worse and is"
            told += (
                f" {len(self.undecided)} {many} undecided ({first.defense} x {first.attack}, {first.metric}): "
                f"{settles} would settle it."
            )
        open_rows = [row for row in self.tested if row.verdict is Change.NO_EVIDENCE]
        if open_rows:
            widest = max(open_rows, key=_worst_end)
            told += (
                f" The samples do not exclude a worsening of up to {100 * _worst_end(widest):.1f} points"
                f" ({widest.defense} x {widest.attack}, {widest.metric})."
            )
        return told

    def as_dict(self) -> dict[str, Any]:
        """What JSON holds: outcome, summary, level, least effect, notes, rows."""
        return {
            "outcome": self.outcome,
            "summary": self.summary(),
            "alpha": self.alpha,
            "min_effect": self.min_effect,
            "notes": list(self.notes),
            "rows": [_plain(row) for row in self.rows],
        }


_COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Row) if field.name != "withheld")


def _plain(row: Row, *, joined: bool = False) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in _COLUMNS}
    for name, value in values.items():
        if isinstance(value, tuple):
            values[name] = ";".join(value) if joined else list(value)
        elif isinstance(value, Change):
            values[name] = value.value
        elif isinstance(value, float) and not math.isfinite(value):
            values[name] = None
    return values


def compare(
    old: Report | Path | str,
    new: Report | Path | str,
    *,
    min_effect: float = MIN_EFFECT,
    alpha: float = ALPHA,
    metrics: Collection[str] = (),
    curve: bool = False,
) -> Comparison:
    """Hold a run against an earlier one, sample by sample.

    Cells are joined by defence, attack, scenario, norm, radius and repeat; samples by their id. A rate whose outcomes
    are stored per sample is tested on the samples of both runs, by McNemar's exact test, or by `paired.crossed` where
    there are several repeats; p-values are adjusted over the table by Holm's method. With one repeat a verdict is about
    these two trained models; with several the interval also holds how much trainings differ.

    A *regression* is an adjusted p-value below `alpha` in the worse direction, an interval without 0, and a worsening
    of at least `min_effect`; also a cell that fails now, and a privacy guarantee that got weaker or was lost.
    *Undecided* is the same with 0 in the interval: these trained models got worse, but trainings scatter as much. *No
    worse* means that the interval excludes a worsening of `min_effect`; *no evidence*, that it does not. *In doubt* is
    a change away from, or an improvement to, a figure whose flags say that it cannot be believed, and an improvement
    under other settings of the attack. Figures without outcomes per sample stand beside, *not tested*.

    Args:
        old: The released run, or its folder.
        new: The run that is to replace it, or its folder.
        min_effect: Least change of a rate that counts, in [0, 1].
        alpha: Level of the whole table, in (0, 1).
        metrics: Names of the figures to compare; empty for all.
        curve: Whether points of curves (other radii, fewer samples) are compared too; each costs power.

    Raises:
        RequestError: A number out of range, a metric that neither run has, or a folder without records.

    Example:
        >>> compare(Report([]), Report([])).outcome
        'inconclusive'
    """
    checks.real("min_effect", min_effect, low=0.0, high=1.0)
    checks.real("alpha", alpha, low=0.0, high=1.0, open_low=True, open_high=True)
    before, after = (Run(side if isinstance(side, Report) else Report.load(side), curve=curve) for side in (old, new))
    known = sorted({name for run in (before, after) for record in run.records for name in record.metrics})
    for name in metrics:
        checks.one_of("metric", name, known)
    found = [row for row in rows(before, after) if not metrics or row.metric in metrics]
    return Comparison(tuple(_judged(found, alpha, min_effect)), alpha, min_effect, tuple(_notes(before, after)))


def _judged(found: Sequence[Row], alpha: float, min_effect: float) -> list[Row]:
    """Adjust p-values over all rows that can be tested, and fill in their verdicts."""
    able = [_able(row, alpha) for row in found]
    places = [i for i, row in enumerate(able) if row.p is not None]
    for i, adjusted in zip(places, holm([able[i].p or 0.0 for i in places]), strict=True):
        row = replace(able[i], adjusted=adjusted)
        able[i] = replace(row, verdict=_verdict(row, alpha, min_effect))
    return able


def _able(row: Row, alpha: float) -> Row:
    """Rows with so few samples that no outcome could be significant are not tested and cost the others nothing."""
    if row.p is None or 2 * 0.5**row.n < alpha:
        return row
    told = f"{row.n} samples are too few for any test"
    return replace(
        row, p=None, verdict=Change.NOT_COMPARABLE, message="; ".join(part for part in (told, row.message) if part)
    )


def _verdict(row: Row, alpha: float, min_effect: float) -> Change:
    """What a tested row says; over several trainings the interval must speak too, as it alone holds their spread."""
    worsening = -_gain(row)
    significant = row.adjusted is not None and row.adjusted < alpha
    apart = (row.low or 0.0) > 0 or (row.high or 0.0) < 0
    if significant and worsening >= min_effect - _ROUNDING:
        if row.withheld[0] and not row.withheld[1]:
            return Change.IN_DOUBT
        return Change.REGRESSION if apart else Change.UNDECIDED
    if significant and apart and -worsening >= min_effect - _ROUNDING:
        return Change.IN_DOUBT if row.withheld[1] else Change.IMPROVEMENT
    return Change.NO_WORSE if _worst_end(row) < min_effect else Change.NO_EVIDENCE


def _count(rows: Sequence[Row], word: str) -> str:
    return f"{len(rows)} {word}{'s' * (len(rows) != 1)}"


def _gain(row: Row) -> float:
    """The difference, positive where it is for the better."""
    return (row.difference or 0.0) * (1 if row.better == "higher" else -1)


def _worst_end(row: Row) -> float:
    """The largest worsening that the interval holds."""
    low, high = (0.0 if end is None else end for end in (row.low, row.high))
    return -low if row.better == "higher" else high


def _notes(old: Run, new: Run) -> list[str]:
    told = []
    for name in ("dataset", "model", "suite"):
        was, now = (", ".join(dict.fromkeys(str(getattr(r, name)) for r in run.records)) for run in (old, new))
        if was != now and old.records and new.records:
            told.append(f"{name}: {was}, now {now}")
    was, now = (run.records[0].environment.get("versions", {}) if run.records else {} for run in (old, new))
    changed = [f"{name} {was[name]}, now {now[name]}" for name in was if name in now and was[name] != now[name]]
    if changed:
        told.append(f"versions: {'; '.join(changed)}")
    left = old.left_out + new.left_out
    if left:
        told.append(f"{left} points of curves are left out")
    return told
