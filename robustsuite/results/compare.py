"""A release against the one before: what got worse, by how much, and whether that is more than chance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core import checks
from robustsuite.core.paired import holm, repeats_needed
from robustsuite.results.changes import Change, Gap, Row
from robustsuite.results.differences import sentence
from robustsuite.results.pairing import Run, measured
from robustsuite.results.results import Results
from robustsuite.results.sweeps import several_suites
from robustsuite.results.worst_case import WORST
from robustsuite.results.worst_rows import rows as found_rows

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
        allow_missing: Whether figures that are missing in the new run are excused.
        faults: What of either run's records is not as it was written; nothing passes then.
    """

    rows: tuple[Row, ...]
    alpha: float = ALPHA
    min_effect: float = MIN_EFFECT
    notes: tuple[str, ...] = ()
    allow_missing: bool = False
    faults: tuple[str, ...] = ()

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
        """Rows that look worse, where trainings scatter as much, samples are few, or the old figure was in doubt."""
        return tuple(
            row
            for row in self.rows
            if row.verdict is Change.UNDECIDED or (row.verdict is Change.IN_DOUBT and _gain(row) < 0)
        )

    @property
    def gaps(self) -> tuple[Row, ...]:
        """Rows whose old figure was measured and has no counterpart: missing, not comparable, or newly withheld."""
        excused = (Gap.NONE, Gap.MISSING) if self.allow_missing else (Gap.NONE,)
        return tuple(row for row in self.rows if row.gap not in excused)

    @property
    def outcome(self) -> str:
        """`failed` with a regression; else `inconclusive` with a gap, a fault, a row undecided or none tested; else
        `passed`.
        """
        if self.regressions:
            return "failed"
        open_ = self.undecided or self.gaps or self.faults
        return "passed" if self.tested and not open_ else "inconclusive"

    @property
    def frame(self) -> pd.DataFrame:
        """One line a row: the fields of `Row`, flags joined by `;`."""
        import pandas as pd

        return pd.DataFrame([_plain(row, joined=True) for row in self.rows], columns=list(_COLUMNS))

    def summary(self) -> str:
        """The verdict in a few sentences."""
        if not self.tested and not self.regressions:
            told = ["Nothing could be compared: no figure has samples that both runs judged."]
        else:
            counts = [_count(self.regressions, "regression"), _count(self.improvements, "improvement")]
            told = [f"{' and '.join(counts)} among {_count(self.tested, 'tested figure')}."]
        if self.faults:
            told.append(f"{_count(self.faults, 'fault')} in records as they stand; the first: {self.faults[0]}.")
        told += filter(None, [self._gaps_told(), self._undecided_told(), self._not_excluded()])
        if any(row.repeats == 1 for row in self.tested):
            told.append("With one repeat this is about these trained models (these weights), not about their training.")
        return " ".join(told)

    def _gaps_told(self) -> str:
        if not self.gaps:
            return ""
        # A worst case is open where one of its attacks is: those are what has to be mended.
        rows = [row for row in self.gaps if row.attack != WORST] or self.gaps
        places = dict.fromkeys((row.defense, row.attack, row.scenario, row.norm, row.radius) for row in rows)
        first = rows[0]
        why = f": {first.message}" if first.message else ""
        many = f"{len(places)} cells that the old run measured lack" if len(places) > 1 else "1 cell lacks"
        return (
            f"{many} a counterpart that could be held against {'them' if len(places) > 1 else 'it'}; "
            f"the first: {_name(first)} ({first.gap.value}{why})."
        )

    def _undecided_told(self) -> str:
        if not self.undecided:
            return ""
        first = self.undecided[0]
        many = "figures look worse and are" if len(self.undecided) > 1 else "figure looks worse and is"
        return f"{len(self.undecided)} {many} undecided ({_name(first)}): {_settles(first)}."

    def _not_excluded(self) -> str:
        open_rows = [row for row in self.tested if row.verdict is Change.NO_EVIDENCE]
        if not open_rows:
            return ""
        widest = max(open_rows, key=_worst_end)
        worst = f"{100 * _worst_end(widest):.1f} points ({_name(widest)})"
        if widest.repeats == 1:
            return f"The samples do not exclude a worsening of up to {worst}."
        needed = f"; to call one like it would take {widest.repeats_needed} repeats" if widest.repeats_needed else ""
        return f"Samples and trainings do not exclude a worsening of up to {worst}{needed}."

    def as_dict(self) -> dict[str, Any]:
        """What JSON holds: outcome, summary, level, least effect, notes, rows."""
        return {
            "outcome": self.outcome,
            "summary": self.summary(),
            "alpha": self.alpha,
            "min_effect": self.min_effect,
            "allow_missing": self.allow_missing,
            "faults": list(self.faults),
            "notes": list(self.notes),
            "rows": [_plain(row) for row in self.rows],
        }


_IN_NO_TABLE: Final = ("withheld", "found", "words")
_COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Row) if field.name not in _IN_NO_TABLE)


def _plain(row: Row, *, joined: bool = False) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in _COLUMNS}
    for name, value in values.items():
        if isinstance(value, tuple):
            values[name] = ";".join(value) if joined else list(value)
        elif isinstance(value, (Change, Gap)):
            values[name] = value.value
        elif isinstance(value, float) and not math.isfinite(value):
            values[name] = None
    return values


def compare(
    old: Results | Path | str,
    new: Results | Path | str,
    *,
    min_effect: float = MIN_EFFECT,
    alpha: float = ALPHA,
    metrics: Collection[str] = (),
    curve: bool = False,
    allow_missing: bool = False,
) -> Comparison:
    """Hold a run against an earlier one, sample by sample.

    Cells are joined by defence, attack, scenario, norm, radius and repeat; samples by their id. A rate whose outcomes
    are stored per sample is tested on the samples of both runs, by McNemar's exact test, or by `paired.crossed` where
    there are several repeats, which holds how much trainings differ; p-values are adjusted over the table by Holm's
    method, which is valid however rows depend on each other. With one repeat a verdict is about these two trained
    models (these weights) only.

    A *regression* is an adjusted p-value below `alpha` in the worse direction and a worsening of at least `min_effect`;
    also a cell that fails now, and a privacy guarantee that got weaker or was lost. *Undecided*: these trained models
    got worse beyond chance, but trainings scatter as much; `repeats_needed` says how many would tell. *No worse* means
    that the interval excludes a worsening of `min_effect`; *no evidence*, that it does not. *In doubt* is a change away
    from, or an improvement to, a figure whose flags say that it cannot be believed. Figures without outcomes per sample
    stand beside, *not tested*.

    It fails closed: a figure that the old run measured and that is missing now, that was measured under other rules
    (ball, knowledge, settings of the attack or of the game, follow-up attacks), whose per-sample files are lost or were
    changed, or that is newly withheld, makes the outcome inconclusive; and so does a file of records that is not as it
    was written.

    Args:
        old: The released run, or its folder.
        new: The run that is to replace it, or its folder.
        min_effect: Least change of a rate that counts, in [0, 1].
        alpha: Level of the whole table, in (0, 1).
        metrics: Names of the figures to compare; empty for all.
        curve: Whether points of curves (other radii, fewer samples) are compared too; each costs power.
        allow_missing: Whether figures that are missing in the new run are excused; nothing else is.

    Raises:
        RequestError: A number out of range, a metric that neither run has, or a folder without records.

    Example:
        >>> compare(Results([]), Results([])).outcome
        'inconclusive'
    """
    checks.real("min_effect", min_effect, low=0.0, high=1.0)
    checks.real("alpha", alpha, low=0.0, high=1.0, open_low=True, open_high=True)
    reports = [side if isinstance(side, Results) else Results.load(side) for side in (old, new)]
    several = any(several_suites(report.records) for report in reports)
    before, after = (Run(report, curve=curve, several=several) for report in reports)
    known = sorted({name for run in (before, after) for record in run.records for name in record.metrics})
    for name in metrics:
        checks.one_of("metric", name, known)
    found = found_rows(before, after, metrics, allow_missing=allow_missing)
    faults = tuple(fault for report in reports for fault in report.lines.faults)
    notes = (*faults, *_notes(before, after), *_bare(*reports))
    return Comparison(tuple(judged(found, alpha, min_effect)), alpha, min_effect, notes, allow_missing, faults)


def judged(found: Sequence[Row], alpha: float, min_effect: float) -> list[Row]:
    """Adjust p-values over all rows that can be tested, and fill in their verdicts.

    Args:
        found: Rows with p-values of their own.
        alpha: Level of the whole table.
        min_effect: Least worsening that counts, as a rate.
    """
    able = [_able(row, alpha, min_effect) for row in found]
    places = [i for i, row in enumerate(able) if row.p is not None]
    both = holm([able[i].p or 0.0 for i in places])
    weights = holm([able[i].p_weights or 0.0 for i in places])
    for i, adjusted, adjusted_weights in zip(places, both, weights, strict=True):
        row = replace(able[i], adjusted=adjusted, adjusted_weights=adjusted_weights)
        row = replace(row, verdict=_verdict(row, alpha, min_effect))
        if row.found is not None and row.verdict in (Change.UNDECIDED, Change.NO_EVIDENCE):
            wanted = row.found.value if row.verdict is Change.UNDECIDED else _worst_end(row)
            row = replace(row, repeats_needed=repeats_needed(row.found, alpha / len(places), wanted))
        able[i] = row
    return able


def _able(row: Row, alpha: float, min_effect: float) -> Row:
    """Rows with so few samples that no outcome could be significant are not tested and cost the others nothing."""
    if row.p is None or 2 * 0.5**row.n < alpha:
        return row
    told = f"{row.n} samples are too few for any test"
    verdict = Change.UNDECIDED if -_gain(row) >= min_effect - _ROUNDING else Change.NO_EVIDENCE
    return replace(row, p=None, p_weights=None, found=None, verdict=verdict, message=sentence(told, row.message))


def _verdict(row: Row, alpha: float, min_effect: float) -> Change:
    """What a tested row says; with several repeats both sources of spread must speak for a change."""
    worsening = -_gain(row)
    significant = row.adjusted is not None and row.adjusted < alpha
    these = row.adjusted_weights is not None and row.adjusted_weights < alpha
    if these and worsening >= min_effect - _ROUNDING:
        if row.withheld[0] and not row.withheld[1]:
            return Change.IN_DOUBT
        return Change.REGRESSION if significant else Change.UNDECIDED
    if significant and -worsening >= min_effect - _ROUNDING:
        return Change.IN_DOUBT if row.withheld[1] else Change.IMPROVEMENT
    return Change.NO_WORSE if _worst_end(row) < min_effect else Change.NO_EVIDENCE


def _settles(row: Row) -> str:
    """What would decide a row that looks worse."""
    if row.verdict is not Change.UNDECIDED:
        return "a run whose figures carry no doubt would settle it"
    if row.p is None:
        return "more samples would settle it"
    if row.repeats_needed is None:
        return "more repeats would settle it, but more than a thousand, or only on more samples"
    return (
        f"more repeats would settle it: with {row.repeats_needed} in place of {row.repeats}, "
        "a difference like this one is called in four of five comparisons"
    )


def _name(row: Row) -> str:
    return f"{row.defense} x {row.attack}, {row.metric}"


def _count(rows: Sequence[object], word: str) -> str:
    return f"{len(rows)} {word}{'s' * (len(rows) != 1)}"


def _gain(row: Row) -> float:
    """The difference, positive where it is for the better."""
    return (row.difference or 0.0) * (1 if row.better == "higher" else -1)


def _worst_end(row: Row) -> float:
    """The largest worsening that the interval holds."""
    low, high = (0.0 if end is None else end for end in (row.low, row.high))
    return -low if row.better == "higher" else high


def _bare(old: Results, new: Results) -> list[str]:
    """That records from before lines carried digests cannot be checked."""
    sides = [name for name, report in (("old", old), ("new", new)) if report.lines.unsealed]
    return [f"records of the {side} run carry no digests, so edits of them are not seen" for side in sides]


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
    sides = [("old", [r for r in old.records if measured(r)]), ("new", [r for r in new.records if measured(r)])]
    silent = [side for side, found in sides if not all(record.tells_rules for record in found)]
    if len(silent) == 1:
        told.append(f"records of the {silent[0]} run do not tell the rules of their games, so those are not compared")
    left = old.left_out + new.left_out
    if left:
        told.append(f"{left} points of curves are left out")
    return told
