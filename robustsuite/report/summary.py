"""What a run says in a few sentences and a few large figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from robustsuite.core import flags as doubts
from robustsuite.core.suspicions import RESOLVED, Suspicion
from robustsuite.evaluation.records import Record
from robustsuite.results import time_limits, words
from robustsuite.results.cells import Column, ComparisonTable, TableCell
from robustsuite.results.sweeps import NO_BALL
from robustsuite.results.worst_case import WORST

_STATUS = {
    "error": "failed",
    "inconclusive": "inconclusive",
    "not_applicable": "not applicable",
    "not_run": "not run",
}

_OUTDATED = (
    "This run was made by an older version, whose sanity checks and follow-up attacks were weaker. Run it again."
)


@dataclass(frozen=True)
class Tile:
    """One large figure: the best of a column that can be believed, and what the undefended model has."""

    title: str
    subtitle: str
    figure: str
    interval: str
    defense: str
    undefended: str


def tiles(table: ComparisonTable) -> list[Tile]:
    """Clean accuracy, the verdict on evasion, and the first attack of every other family."""
    found = []
    for column in _heads(table):
        place = _best(table, column)
        if place is not None:
            cell = table.cell(place, column.title)
            bare = table.cell("none", column.title) if "none" in table.rows and place != "none" else None
            found.append(
                Tile(
                    column.called,
                    column.title if column.attack else "",
                    with_unit(cell),
                    cell.interval + cell.mark,
                    place if len(table.rows) > 1 else "",
                    with_unit(bare) if bare is not None and bare.value is not None else "",
                )
            )
    return found


def with_unit(cell: TableCell) -> str:
    """The figure with its unit."""
    return f"{cell.text} {words.suffix(cell.unit)}".strip()


def _heads(table: ComparisonTable) -> list[Column]:
    first: dict[str, Column] = {}
    for column in table.columns:
        known = first.get(column.scenario)
        if known is None or (column.attack == WORST and known.attack != WORST):
            first[column.scenario] = column
    return list(first.values())


def _best(table: ComparisonTable, column: Column) -> str | None:
    """The row that is marked best, else the first figure that can be believed."""
    cells = {row: table.cell(row, column.title) for row in table.rows}
    marked = [row for row, cell in cells.items() if cell.best]
    believed = [row for row, cell in cells.items() if _is_believed(cell)]
    return next(iter([*marked, *believed]), None)


def _is_believed(cell: TableCell) -> bool:
    return cell.value is not None and cell.status == "ok" and doubts.believable(cell.flags)


def sentences(table: ComparisonTable, records: Sequence[Record]) -> list[str]:
    """The verdict in words: robustness, what could not be measured, what is in doubt and what was settled."""
    limits = [f"Time was limited: {told}." for told in time_limits.sentences(records)]
    told = [*_robustness(table, records), *limits, _measured(records)]
    marked = [cell for row in table.cells for cell in row if cell.mark]
    doubted = sum(any(not code.startswith(RESOLVED) for code in cell.flags) for cell in marked)
    if any(Suspicion.OUTDATED in cell.flags for cell in marked):
        told.insert(0, _OUTDATED)
    if doubted:
        are = "figures of the table are" if doubted > 1 else "figure of the table is"
        told.append(f"{doubted} {are} in doubt (†) and cannot be taken at face value: the notes under it say why.")
    if len(marked) > doubted:
        few = len(marked) - doubted
        marks = "other figures are" if few > 1 else "other figure is"
        told.append(
            f"{few} {marks} marked (†) because follow-up attacks settled a doubt; the verdict counts their finds."
        )
    return told


def damage(faults: Sequence[str]) -> list[str]:
    """What the records have lost, in a sentence each, for whoever reads nothing but the page."""
    return [f"The records are not as they were written: {fault}." for fault in faults]


def _robustness(table: ComparisonTable, records: Sequence[Record]) -> list[str]:
    evasion = [c for c in table.columns if c.joined]
    if not evasion:
        return []
    column = next((c for c in evasion if c.attack == WORST), evasion[-1])
    balls = [column.ball, *((r.norm, r.radius) for r in records)]
    ball = next((f"{norm} radius {radius:g}" for norm, radius in balls if radius is not None), "the ball")
    names = words.some([c.title for c in evasion if c.attack != WORST and column.ball in (c.ball, NO_BALL)], 4)
    under = f"{names} and their follow-up attacks together" if column.attack == WORST else column.attack
    place = _best(table, column)
    if place is None:
        measured = any(table.cell(row, column.title).value is not None for row in table.rows)
        told = f"no robust accuracy under {under} {'can be believed' if measured else 'could be measured'}"
        return [f"Within {ball} {told}."]
    cell = table.cell(place, column.title)
    name = "the model" if len(table.rows) == 1 else "the undefended model" if place == "none" else place
    best = f"{name} has the highest robust accuracy: " if cell.best else f"the robust accuracy of {name} is "
    clean = table.cell(place, "clean accuracy")
    also = f" at {with_unit(clean)} clean accuracy" if clean.value is not None else ""
    told = f"Within {ball}, under {under}, {best}{with_unit(cell)} {cell.interval}{also}"
    bare = table.cell("none", column.title) if "none" in table.rows and place != "none" else None
    if bare is not None and bare.value is not None:
        told += f"; the undefended model has {with_unit(bare)}"
    return [told + "."]


def _measured(records: Sequence[Record]) -> str:
    statuses = {record.key: record.status for record in records if record.attack != WORST}
    counts = Counter(statuses.values())
    troubles = [f"{counts[status]} {word}" for status, word in _STATUS.items() if counts[status]]
    cells = f"{len(statuses)} cells (a defence under an attack at a radius)"
    head = f"{counts['ok']} of {cells} were measured" if troubles else f"All {cells} were measured"
    return head + (f"; {', '.join(troubles)}." if troubles else ".")
