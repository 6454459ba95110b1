"""What robustness costs, drawn of the comparison table; the look of a defence in every chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustsuite.evaluation.records import Record
from robustsuite.report.panels.charts import Axis, Chart, Point, Series, axis, draw
from robustsuite.results import words
from robustsuite.results.cells import Column, ComparisonTable, TableCell
from robustsuite.results.worst_case import WORST


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
