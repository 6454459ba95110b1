"""The comparison table: a row per defence, a column per attack headline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from robustsuite.core import flags as doubts
from robustsuite.core.metrics import FOLLOWED_UP
from robustsuite.core.suspicions import Suspicion
from robustsuite.evaluation.records import CLEAN, Record
from robustsuite.results import words
from robustsuite.results.cells import Column, ComparisonTable, TableCell
from robustsuite.results.frame import listed, one_line
from robustsuite.results.sweeps import NO_BALL, InBall, ball_text, defense_name, main_records, own_ball, several_suites
from robustsuite.results.worst_case import WORST

if TYPE_CHECKING:
    from robustsuite.core.metric import Metric

_WHITE: Final = "white-box"
_PASSES: Final = ("forwards", "backwards")
_SPENT: Final = "passes_per_sample"
_CLEAN_ACCURACY: Final = "clean_accuracy"  # stands in every table, whoever measured it
_Place = tuple[str, str, InBall]


def comparison(records: Iterable[Record]) -> ComparisonTable:
    """Build the table from records and their worst cases.

    Headlines of the clean evaluation (clean accuracy, and epsilon where any defence has one) and counted passes come
    first; then, for each game, the verdict (the worst case over all attacks and their follow-ups, where they are
    joined) and for each attack in plan order a column for each headline, which holds the attack's own result. Points of
    a curve have no column. Repeats are merged by
    `statistics.over_repeats`. The best of a white-box attack's column is the best once follow-up attacks and the
    verdict are counted: no defence is called best for masking its gradient.

    Args:
        records: As `worst_case.with_worst_cases` gives them.
    """
    shown = main_records(records)
    several, defended, apart = several_suites(shown), dict[str, _Defended](), _several_balls(shown)
    for record in shown:
        defended.setdefault(defense_name(record, several), _Defended(apart)).add(record)
    repeats = len({record.repeat for record in shown})
    columns = _columns(shown, apart=apart)
    grid = [[entry.cell(column, repeats) for column in columns] for entry in defended.values()]
    by_column = [_mark_best(column, cells) for column, cells in zip(columns, zip(*grid, strict=True), strict=True)]
    cells = tuple(tuple(row) for row in zip(*by_column, strict=True))
    return ComparisonTable(tuple(defended), tuple(columns), cells)


def _columns(records: Sequence[Record], *, apart: bool) -> list[Column]:
    """The clean evaluation first, then attacks by plan order, the verdict first in its family."""
    heads: dict[_Place, list[Column]] = {}
    for record in [*filter(_has_head, records), *records]:  # a record with a value says what its column is about
        columns = heads.setdefault(_place(record, apart), [_column(record, listed(record)[0])])
        known = [column.metric for column in columns]
        columns += [_column(record, n) for n in record.headlines[1:] if n in record.figures and n not in known]
    places = dict.fromkeys(_place(record, apart) for record in records)
    attacks = [column for place in places if place[1] != CLEAN for column in heads[place]]
    order = {scenario: i for i, scenario in enumerate(dict.fromkeys(column.scenario for column in attacks))}
    attacks.sort(key=lambda column: (order[column.scenario], column.attack != WORST))
    clean = next((record.scenario for record in records if record.attack == CLEAN), "")
    found = [column for place in places if place[1] == CLEAN for column in heads[place] if column.metric]
    if all(column.metric != _CLEAN_ACCURACY for column in found):
        found.insert(0, Column("", _CLEAN_ACCURACY, "rate", "higher", clean))
    if any(record.meaning.joined and not record.figures.keys().isdisjoint(_PASSES) for record in records):
        found.append(Column("", _SPENT, "passes per sample", "", clean))
    attacks = [replace(c, at=_at(c, attacks)) if apart else c for c in attacks]
    return _apart([*(replace(column, attack="") for column in found), *attacks]) if records else []


def _several_balls(records: Sequence[Record]) -> bool:
    """Whether a suite has verdicts in several balls, each of which has a column of its own then."""
    balls: dict[tuple[str, ...], set[InBall]] = {}
    for record in records:
        if record.attack == WORST:
            balls.setdefault((record.suite, record.dataset, record.scenario), set()).add(own_ball(record))
    return any(len(found) > 1 for found in balls.values())


def _place(record: Record, apart: bool) -> _Place:
    """By what a record's figures find their column."""
    return record.scenario, record.attack, own_ball(record) if apart else NO_BALL


def _at(column: Column, among: Sequence[Column]) -> str:
    """What tells a verdict's ball from those of other verdicts on its game."""
    same = [other.ball for other in among if other.attack == WORST and other.scenario == column.scenario]
    return ball_text(column.ball, same) if column.attack == WORST else ""


def _has_head(record: Record) -> bool:
    return listed(record)[0] in record.figures


def _column(record: Record, name: str) -> Column:
    metric, told = record.figures.get(name), record.meaning
    unit, better = ("", "") if metric is None else (metric.unit, metric.better)
    called = words.title(name, told)
    joined, ball = bool(name) and name == told.joined, (record.norm, record.radius)
    return Column(record.attack, name, unit, better, record.scenario, called, joined=joined, ball=ball)


def _apart(columns: Iterable[Column]) -> list[Column]:
    """The columns, each told from those before that the same attack heads."""
    found: dict[str, Column] = {}
    for column in columns:
        told = replace(column, further=True) if column.title in found else column
        found[told.title] = told
    return list(found.values())


@dataclass
class _Defended:
    """All records of one defence, by game, attack and, of a verdict, its ball."""

    apart: bool
    records: dict[_Place, list[Record]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        self.records.setdefault(_place(record, self.apart), []).append(record)

    def of(self, column: Column) -> list[Record]:
        """Those that a column is about."""
        ball = column.ball if column.attack == WORST and self.apart else NO_BALL
        return self.records.get((column.scenario, column.attack, ball), [])

    def cell(self, column: Column, repeats: int) -> TableCell:
        if column.metric == _SPENT:
            return self._passes()
        if column.attack:
            cell = _merged(self.of(column), column, repeats)
            return replace(cell, judged=self._judged(column, cell.value))
        found = [record for (_, attack, _), some in self.records.items() if attack == CLEAN for record in some]
        if not found and column.metric == _CLEAN_ACCURACY:
            # Without a clean evaluation the records of an attack that is joined still say how many it began with.
            found = next(iter(self._joined()), [])
        return _merged(found, column, repeats)

    def _joined(self) -> list[list[Record]]:
        """Of every attack that is joined with others, its records."""
        return [some for (_, name, _), some in self.records.items() if name != WORST and some[0].meaning.joined]

    def _judged(self, column: Column, own: float | None) -> float | None:
        """The worst of a white-box attack's own figure, that with its follow-up attacks, and the verdict."""
        records = self.of(column)
        if own is None or column.attack == WORST or not any(record.knowledge == _WHITE for record in records):
            return None
        ball = (records[0].norm, records[0].radius) if self.apart else NO_BALL
        verdict = self.records.get((column.scenario, WORST, ball), [])
        known = [own, *_mean(records, column.metric + FOLLOWED_UP), *_mean(verdict, column.metric)]
        return max(known) if column.better == "lower" else min(known)

    def _passes(self) -> TableCell:
        """Forward and backward passes of all attacks that are joined together, per sample judged."""
        records = [record for some in self._joined() for record in some]
        robust = ((record.repeat, figure.n) for record in records for figure in _of([record], record.meaning.joined))
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
