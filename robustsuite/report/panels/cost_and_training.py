"""Charts of what robustness costs and of the histories of trainings; the look of a defence in every chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from robustsuite.evaluation.records import Record
from robustsuite.report.panels.charts import Axis, Chart, Point, Series, axis, draw
from robustsuite.results import words
from robustsuite.results.cells import Column, ComparisonTable, TableCell
from robustsuite.results.worst_case import WORST

_PANELS: Final = 6  # charts of training histories that are shown


def looks(defenses: Sequence[str]) -> dict[str, int]:
    """The same colour and shape for a defence in every chart."""
    return {defense: number for number, defense in enumerate(dict.fromkeys(defenses))}


def costs(table: ComparisonTable, records: Sequence[Record], look: Mapping[str, int]) -> list[Chart]:
    """What robustness costs: against clean accuracy, and against training time (or counted passes of the attacks)."""
    robust = robust_column(table)
    if robust is None:
        return []
    y = Axis("robust accuracy, %", 0.0, 1.0, percent=True)
    seconds: dict[str, list[float]] = {defense: [] for defense in look}
    for record in records:
        if "train_seconds" in record.figures:
            seconds[record.defense].append(record.figures["train_seconds"].value)
    prices: list[tuple[str, dict[str, float], bool]] = [("clean accuracy, %", _values(table, "clean accuracy"), True)]
    if any(seconds.values()):
        prices.append(("training time, s", {d: sum(v) / len(v) for d, v in seconds.items() if v}, False))
    else:
        prices.append(("attack passes per sample", _values(table, words.title("passes_per_sample")), False))
    return [chart for price in prices if (chart := _scatter(table, robust, y, price, look)) is not None]


def _scatter(
    table: ComparisonTable, robust: Column, y: Axis, price: tuple[str, dict[str, float], bool], look: Mapping[str, int]
) -> Chart | None:
    label, values, percent = price
    series = []
    for row in table.rows:
        cell = table.cell(row, robust.title)
        if row in values and cell.value is not None:
            shown = f"{100 * values[row]:.1f}" if percent else words.figure(values[row], "passes")
            told = f"{label} {shown}, robust {cell.text} % {cell.interval}"
            series.append(Series(row, (Point(values[row], cell.value, cell.low, cell.high, told),), look.get(row, 0)))
    if len(series) < 2:
        return None
    x = axis(label, [s.points[0].x for s in series], percent=percent)
    return draw(f"Robust accuracy against {label.partition(',')[0]}", x, y, series, joined=False)


def robust_column(table: ComparisonTable) -> Column | None:
    """The worst case where there is one, else the evasion attack that leaves least."""
    evasion = [column for column in table.columns if column.joined]
    joined = next((column for column in evasion if column.attack == WORST), None)
    return joined or min(evasion, key=lambda c: sum(_values(table, c.title).values()), default=None)


def _values(table: ComparisonTable, title: str) -> dict[str, float]:
    if title not in [column.title for column in table.columns]:
        return {}
    cells: dict[str, TableCell] = {row: table.cell(row, title) for row in table.rows}
    return {row: cell.value for row, cell in cells.items() if cell.value is not None}


def histories(records: Sequence[Record], look: Mapping[str, int]) -> list[Chart]:
    """One chart per figure of the trainings' first repeat, a line a defence."""
    first: dict[str, Record] = {}
    for record in records:
        if len(record.history) > 1 and record.repeat == 0:
            first.setdefault(record.defense, record)
    names = list(dict.fromkeys(name for r in first.values() for row in r.history for name in sorted(row)))
    charts = []
    for name in [n for n in names if n != "epoch"][:_PANELS]:
        lines = [_history(record, name, look) for record in first.values()]
        lines = [line for line in lines if line.points]
        if any(point.y for line in lines for point in line.points):
            percent = "accuracy" in name
            y = axis(
                "%" if percent else "loss" if "loss" in name else "",
                [p.y for s in lines for p in s.points],
                percent=percent,
                from_zero=True,
            )
            x = axis("epoch", [p.x for s in lines for p in s.points], from_zero=True)
            charts.append(draw(words.title(name), x, y, lines))
    return charts


def _history(record: Record, name: str, look: Mapping[str, int]) -> Series:
    points = []
    for number, row in enumerate(record.history):
        value = float(row.get(name, "nan"))
        if value == value and abs(value) != float("inf"):
            epoch = float(row.get("epoch", number)) + 1
            points.append(Point(epoch, value, label=f"{value:.4g} after epoch {epoch:g}"))
    return Series(record.defense, tuple(points), look.get(record.defense, 0))
