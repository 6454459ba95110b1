"""The comparison table: a row per defence, a column per attack headline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from robustsuite.core import flags as doubts
from robustsuite.core.metrics import FOLLOWED_UP
from robustsuite.core.suspicions import Suspicion
from robustsuite.evaluation.records import Record
from robustsuite.results.cells import Column, ComparisonTable, TableCell
from robustsuite.results.frame import listed, one_line
from robustsuite.results.sweeps import defense_name, main_records, several_suites
from robustsuite.results.worst_case import WORST

if TYPE_CHECKING:
    from robustsuite.core.metric import Metric

_UTILITY: Final = "utility"
_EVASION: Final = "evasion"
_WHITE: Final = "white-box"
_PASSES: Final = ("forwards", "backwards")


def comparison(records: Iterable[Record]) -> ComparisonTable:
    """Build the table from records and their worst cases.

    Clean accuracy, epsilon where any defence has one, and counted passes come first; then the verdict on evasion (the
    worst case over all attacks and their follow-ups) and a column for each attack in plan order, which holds the
    attack's own result, under the first metric of its records. Points of a curve have no column. Repeats are merged by
    `statistics.over_repeats`. The best of a white-box attack's column is the best once follow-up attacks and the
    verdict are counted: no defence is called best for masking its gradient.

    Args:
        records: As `worst_case.with_worst_cases` gives them.
    """
    shown = main_records(records)
    several, defended = several_suites(shown), dict[str, _Defended]()
    for record in shown:
        defended.setdefault(defense_name(record, several), _Defended()).add(record)
    repeats = len({record.repeat for record in shown})
    columns = _columns(shown)
    grid = [[entry.cell(column, repeats) for column in columns] for entry in defended.values()]
    by_column = [_mark_best(column, cells) for column, cells in zip(columns, zip(*grid, strict=True), strict=True)]
    cells = tuple(tuple(row) for row in zip(*by_column, strict=True))
    return ComparisonTable(tuple(defended), tuple(columns), cells)


def _columns(records: Sequence[Record]) -> list[Column]:
    """Utility first, then attacks by plan order, the verdict first in its family."""
    heads: dict[tuple[str, str], Column] = {}
    for record in [*filter(_has_head, records), *records]:  # a record with a value says what its column is about
        heads.setdefault((record.scenario, record.attack), _column(record))
    places = dict.fromkeys((record.scenario, record.attack) for record in records)
    attacks = [heads[place] for place in places if place[0] != _UTILITY]
    order = {scenario: i for i, scenario in enumerate(dict.fromkeys(column.scenario for column in attacks))}
    attacks.sort(key=lambda column: (order[column.scenario], column.attack != WORST))
    found = [Column("", "clean_accuracy", "rate", "higher", _UTILITY)]
    if any(record.scenario == _UTILITY and "epsilon" in record.figures for record in records):
        found.append(Column("", "epsilon", "nats", "lower", _UTILITY))
    if any(record.scenario == _EVASION and not record.figures.keys().isdisjoint(_PASSES) for record in records):
        found.append(Column("", "passes_per_sample", "passes per sample", "", _UTILITY))
    return [*found, *attacks] if records else []


def _has_head(record: Record) -> bool:
    return listed(record)[0] in record.figures


def _column(record: Record) -> Column:
    name = listed(record)[0]
    metric = record.figures.get(name)
    unit, better = ("", "") if metric is None else (metric.unit, metric.better)
    return Column(record.attack, name, unit, better, record.scenario)


@dataclass
class _Defended:
    """All records of one defence, by game and attack."""

    records: dict[tuple[str, str], list[Record]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        self.records.setdefault((record.scenario, record.attack), []).append(record)

    def cell(self, column: Column, repeats: int) -> TableCell:
        if column.metric == "passes_per_sample":
            return self._passes()
        if column.attack:
            cell = _merged(self.records.get((column.scenario, column.attack), []), column, repeats)
            return replace(cell, judged=self._judged(column, cell.value))
        found = [record for (scenario, _), some in self.records.items() if scenario == _UTILITY for record in some]
        if not found and column.metric == "clean_accuracy":
            # Without a clean evaluation every evasion record still says how many were robust.
            found = next(iter(self._evasion()), [])
        return _merged(found, column, repeats)

    def _evasion(self) -> list[list[Record]]:
        """Of every evasion attack, its records."""
        return [some for (game, name), some in self.records.items() if game == _EVASION and name != WORST]

    def _judged(self, column: Column, own: float | None) -> float | None:
        """The worst of a white-box attack's own figure, that with its follow-up attacks, and the verdict."""
        records = self.records.get((column.scenario, column.attack), [])
        if own is None or column.attack == WORST or not any(record.knowledge == _WHITE for record in records):
            return None
        verdict = self.records.get((column.scenario, WORST), [])
        known = [own, *_mean(records, column.metric + FOLLOWED_UP), *_mean(verdict, column.metric)]
        return max(known) if column.better == "lower" else min(known)

    def _passes(self) -> TableCell:
        """Forward and backward passes of all evasion attacks together, per sample judged."""
        records = [record for some in self._evasion() for record in some]
        robust = ((record.repeat, figure.n) for record in records for figure in _of([record], "robust_accuracy"))
        judged = {repeat: n for repeat, n in robust if n}
        spent = sum(figure.value for name in _PASSES for figure in _of(records, name))
        if not judged:
            return TableCell(status="not_run" if not records else "absent")
        n = sum(judged.values())
        return TableCell(value=spent / n, n=n, unit="passes per sample", status="ok")


def _merged(records: Sequence[Record], column: Column, repeats: int) -> TableCell:
    """One cell from the records of all repeats."""
    from robustsuite.core.intervals import over_repeats

    measured = [record for record in records if column.metric in record.figures]
    message = "; ".join(dict.fromkeys(filter(None, map(one_line, records))))
    if not measured:
        return TableCell(unit=column.unit, status=_absence(records), message=message)
    merged = over_repeats(_of(measured, column.metric))
    codes = [code for record in measured for code in record.flags]
    codes += [Suspicion.MISSING_REPEATS] if len(measured) < repeats else []
    return TableCell(
        merged.value,
        merged.low,
        merged.high,
        merged.n,
        merged.unit,
        doubts.concerning(codes, column.metric, {name for record in records for name in listed(record)}),
        "inconclusive" if any(record.status == "inconclusive" for record in measured) else "ok",
        message=message,
    )


def _of(records: Sequence[Record], metric: str) -> list[Metric]:
    """This figure of each record that has it."""
    return [record.figures[metric] for record in records if metric in record.figures]


def _mean(records: Sequence[Record], metric: str) -> list[float]:
    """The mean over repeats of a figure, as the only item; nothing where no record has it."""
    values = [figure.value for figure in _of(records, metric)]
    return [sum(values) / len(values)] if values else []


def _absence(records: Sequence[Record]) -> str:
    statuses = {record.status for record in records}
    if not records:
        return "not_run"
    return next((s for s in ("error", "inconclusive", "not_applicable", "not_run") if s in statuses), "absent")


def _mark_best(column: Column, cells: Sequence[TableCell]) -> list[TableCell]:
    """Mark the best figures of a column among those that can be believed, where there is something to compare."""
    values = [cell.rank for cell in cells if cell.rank is not None and _eligible(cell)]
    if column.better not in ("higher", "lower") or len(set(values)) < 2:
        return list(cells)
    best = max(values) if column.better == "higher" else min(values)
    return [replace(cell, best=_eligible(cell) and cell.rank == best) for cell in cells]


def _eligible(cell: TableCell) -> bool:
    return cell.value is not None and cell.status == "ok" and doubts.believable(cell.flags)
