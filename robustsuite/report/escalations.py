"""What doubt changed: the number an attack gave first, the number that stands, what found it and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from robustsuite.benchmark.records import Record
from robustsuite.report.flags import RESOLVED

if TYPE_CHECKING:
    from rich.console import Console

HEADINGS: Final = (
    "defence", "attack", "clean", "naive", "first", "verdict", "undefended", "status", "doubts", "found by",
)  # fmt: skip
_FIGURES: Final = ("clean", "naive", "first", "verdict", "undefended")


class Row(NamedTuple):
    """One evasion cell, as text; rates in percent.

    `naive` is the greatest robust accuracy that another white-box attack left this defence when it was asked not to
    doubt itself, `first` what this one left before it did.
    """

    defense: str
    attack: str
    clean: str
    naive: str
    first: str
    verdict: str
    undefended: str
    status: str
    doubts: str
    found_by: str


def rows(records: Iterable[Record]) -> list[Row]:
    """One row for each record whose verdict was escalated, beside the undefended model under the same attack.

    Records of other models, and those that no doubt was raised about, are left out unless some record was escalated.
    """
    cells = [r for r in records if r.scenario == "evasion" and "robust_accuracy" in r.metrics]
    touched = {(r.attack, r.norm, r.radius) for r in cells if r.escalation.get("played")}
    twins = {(r.attack, r.radius, r.repeat): r for r in cells if r.defense == "none"}
    return [
        _row(r, twins.get((r.attack, r.radius, r.repeat)), _naive(r, cells))
        for r in cells
        if (r.attack, r.norm, r.radius) in touched
    ]


def _naive(record: Record, cells: Iterable[Record]) -> str:
    """What the weakest attack on the same model left standing, of those that nobody doubted."""

    def place(r: Record) -> tuple[object, ...]:
        return r.model, r.defense, r.norm, r.radius, r.repeat, r.knowledge

    others = [r for r in cells if place(r) == place(record) and r.attack != record.attack and not r.escalation]
    weakest = max(others, key=lambda r: float(r.metrics["robust_accuracy"]["value"]), default=None)
    return "" if weakest is None else _rate(weakest, "robust_accuracy")


def _row(record: Record, twin: Record | None, naive: str) -> Row:
    first = "robust_accuracy_naive" if "robust_accuracy_naive" in record.metrics else "robust_accuracy"
    doubts = [code.removeprefix(RESOLVED) + ("" if code.startswith(RESOLVED) else " (open)") for code in record.flags]
    steps = [step for step in record.escalation.get("played", ()) if step.get("broke")]
    found = max(steps, key=lambda step: int(step["broke"]), default=None)
    how = "" if found is None else found["attack"] + (f" through {found['through']}" if found.get("through") else "")
    return Row(
        record.defense,
        record.attack,
        _rate(record, "clean_accuracy"),
        naive,
        _rate(record, first),
        _rate(record, "robust_accuracy"),
        "" if twin is None else _rate(twin, "robust_accuracy"),
        record.status,
        ", ".join(doubts),
        how,
    )


def _rate(record: Record, name: str) -> str:
    metric = record.metrics.get(name)
    return "" if metric is None else f"{100 * metric['value']:.1f}"


def markdown(records: Iterable[Record]) -> str:
    """The rows as a table in Markdown; empty where nothing was escalated."""
    found = rows(records)
    if not found:
        return ""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *found]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def show(records: Iterable[Record], console: Console) -> None:
    """Print the rows on a terminal; nothing where nothing was escalated."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = rows(records)
    if not found:
        return
    table = Table(box=box.SIMPLE_HEAD if console.encoding.lower().startswith("utf") else box.ASCII2, pad_edge=False)
    table.title = Text("escalated verdicts: robust accuracy %", style="dim")
    for heading in HEADINGS:
        table.add_column(Text(heading), justify="right" if heading in _FIGURES else "left")
    for row in found:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
