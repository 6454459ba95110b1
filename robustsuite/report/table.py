"""The comparison table: a row per defence, a column per attack headline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from robustsuite.metrics import FOLLOWED_UP
from robustsuite.report import flags as doubts
from robustsuite.report.cells import MARK, Column, ComparisonTable, TableCell
from robustsuite.report.markup import latex, markdown
from robustsuite.report.terminal import terminal
from robustsuite.report.worst_case import WORST

if TYPE_CHECKING:
    import pandas as pd

    from robustsuite.protocol import Metric

__all__ = [
    "MARK",
    "Column",
    "ComparisonTable",
    "TableCell",
    "comparison",
    "latex",
    "main_rows",
    "markdown",
    "plain_rows",
    "terminal",
]

Row = dict[str, Any]
_UTILITY: Final = "utility"
_EVASION: Final = "evasion"
_WHITE: Final = "white-box"
_PASSES: Final = ("forwards", "backwards")


def comparison(frame: pd.DataFrame) -> ComparisonTable:
    """Build the table from the tidy frame.

    Clean accuracy, epsilon where any defence has one, and counted passes come first; then the verdict on evasion (the
    worst case over all attacks and their follow-ups) and a column for each attack in plan order, which holds the
    attack's own result, under the first metric of its records. Points of a curve (radii other than the first in plan
    order) have no column. Repeats are merged by `statistics.over_repeats`. The best of a white-box attack's column is
    the best once follow-up attacks and the verdict are counted: no defence is called best for masking its gradient.

    Args:
        frame: As `report.frame.tidy` makes it.
    """
    rows = main_rows(plain_rows(frame))
    defended: dict[tuple[str, str, str], _Defended] = {}
    for row in rows:
        place = (row["suite"], row["dataset"], row["defense"])
        defended.setdefault(place, _Defended()).add(row)
    repeats = len({row["repeat"] for row in rows})
    columns = _columns(rows)
    grid = [[entry.cell(column, repeats) for column in columns] for entry in defended.values()]
    by_column = [_mark_best(column, cells) for column, cells in zip(columns, zip(*grid, strict=True), strict=True)]
    cells = tuple(tuple(row) for row in zip(*by_column, strict=True))
    return ComparisonTable(_labels(list(defended)), tuple(columns), cells)


def plain_rows(frame: pd.DataFrame) -> list[Row]:
    """Rows as dictionaries in which a missing number is None."""
    import pandas as pd

    return [{str(name): None if pd.isna(v) else v for name, v in row.items()} for row in frame.to_dict("records")]


def main_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows at each suite's own radius (the first in plan order), without the points of its curve."""
    main: dict[tuple[str, str], float] = {}
    first: dict[tuple[Any, ...], str] = {}
    kept = []
    for row in rows:
        suite = (row["suite"], row["dataset"])
        if row["radius"] is not None and row["radius"] != main.setdefault(suite, row["radius"]):
            continue
        # A curve may visit the main radius again, on fewer samples: the first record counts.
        cell = (*suite, row["defense"], row["attack"], row["scenario"], row["repeat"])
        if first.setdefault(cell, row["key"]) == row["key"]:
            kept.append(row)
    return kept


def _columns(rows: Sequence[Row]) -> list[Column]:
    """Utility first, then attacks by plan order, the verdict first in its family."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["key"], row)
    heads: dict[tuple[str, str], Row] = {}
    for row in first.values():
        place = (row["scenario"], row["attack"])
        if place not in heads or (heads[place]["value"] is None and row["value"] is not None):
            heads[place] = row
    attacks = [row for row in heads.values() if row["scenario"] != _UTILITY]
    order = {scenario: i for i, scenario in enumerate(dict.fromkeys(row["scenario"] for row in attacks))}
    attacks.sort(key=lambda row: (order[row["scenario"]], row["attack"] != WORST))
    found = [Column("", "clean_accuracy", "rate", "higher", _UTILITY)]
    if any(row["scenario"] == _UTILITY and row["metric"] == "epsilon" for row in rows):
        found.append(Column("", "epsilon", "nats", "lower", _UTILITY))
    if any(row["scenario"] == _EVASION and row["metric"] in _PASSES for row in rows):
        found.append(Column("", "passes_per_sample", "passes per sample", "", _UTILITY))
    found += [Column(r["attack"], r["metric"], r["unit"], r["better"], r["scenario"]) for r in attacks]
    return found if rows else []


@dataclass
class _Defended:
    """All rows of one defence, by game and attack."""

    rows: dict[tuple[str, str], list[Row]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        self.rows.setdefault((row["scenario"], row["attack"]), []).append(row)

    def cell(self, column: Column, repeats: int) -> TableCell:
        if column.metric == "passes_per_sample":
            return self._passes()
        if column.attack:
            cell = _merged(self.rows.get((column.scenario, column.attack), []), column, repeats)
            return replace(cell, judged=self._judged(column, cell.value))
        found = [row for (scenario, _), rows in self.rows.items() if scenario == _UTILITY for row in rows]
        if not found and column.metric == "clean_accuracy":
            # Without a clean evaluation every evasion record still says how many it found standing.
            attacks = (rows for (scenario, name), rows in self.rows.items() if scenario == _EVASION and name != WORST)
            found = next(attacks, [])
        return _merged(found, column, repeats)

    def _judged(self, column: Column, own: float | None) -> float | None:
        """The worst of a white-box attack's own figure, that with its follow-up attacks, and the verdict."""
        rows = self.rows.get((column.scenario, column.attack), [])
        if own is None or column.attack == WORST or not any(row["knowledge"] == _WHITE for row in rows):
            return None
        verdict = self.rows.get((column.scenario, WORST), [])
        known = [own, *_mean(rows, column.metric + FOLLOWED_UP), *_mean(verdict, column.metric)]
        return max(known) if column.better == "lower" else min(known)

    def _passes(self) -> TableCell:
        """Forward and backward passes of all evasion attacks together, per sample judged."""
        attacks = [group for (game, name), group in self.rows.items() if game == _EVASION and name != WORST]
        rows = [row for group in attacks for row in group]
        judged = {row["repeat"]: row["n"] for row in rows if row["metric"] == "robust_accuracy" and row["n"]}
        spent = sum(row["value"] for row in rows if row["metric"] in _PASSES and row["value"] is not None)
        if not judged:
            return TableCell(status="not_run" if not rows else "absent")
        n = sum(judged.values())
        return TableCell(value=spent / n, n=n, unit="passes per sample", status="ok")


def _merged(rows: Sequence[Row], column: Column, repeats: int) -> TableCell:
    """One cell from the rows of all repeats."""
    from robustsuite.statistics import over_repeats

    measured = [row for row in rows if row["metric"] == column.metric and row["value"] is not None]
    message = "; ".join(dict.fromkeys(row["message"] for row in rows if row["message"]))
    if not measured:
        return TableCell(unit=column.unit, status=_absence(rows), message=message)
    merged = over_repeats([_metric(row) for row in measured])
    codes = [code for row in measured for code in row["flags"].split(";") if code]
    codes += ["missing-repeats"] if len(measured) < repeats else []
    return TableCell(
        merged.value,
        merged.low,
        merged.high,
        merged.n,
        merged.unit,
        doubts.concerning(codes, column.metric, {row["metric"] for row in rows}),
        "inconclusive" if any(row["status"] == "inconclusive" for row in measured) else "ok",
        message=message,
    )


def _mean(rows: Sequence[Row], metric: str) -> list[float]:
    """The mean over repeats of a figure, as the only item; nothing where no row has it."""
    values = [row["value"] for row in rows if row["metric"] == metric and row["value"] is not None]
    return [sum(values) / len(values)] if values else []


def _metric(row: Row) -> Metric:
    from robustsuite.protocol import Metric

    return Metric(row["value"], int(row["n"] or 0), row["low"], row["high"], row["unit"], row["better"])


def _absence(rows: Sequence[Row]) -> str:
    statuses = {row["status"] for row in rows}
    if not rows:
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


def _labels(places: Sequence[tuple[str, str, str]]) -> tuple[str, ...]:
    """Labels of the defences, led by suite or data set where there are several."""
    several = len({place[:2] for place in places}) > 1
    return tuple(f"{suite}/{dataset}: {defense}" if several else defense for suite, dataset, defense in places)
