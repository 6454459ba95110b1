"""A report as a notebook shows it: the comparison table, what was allowed, and what the marks mean."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from robustsuite.report.export.terminal import legend
from robustsuite.results.sweeps import main_records

if TYPE_CHECKING:
    from robustsuite.evaluation.records import Record
    from robustsuite.results.cells import ComparisonTable


def notebook(table: ComparisonTable, records: Iterable[Record]) -> str:
    """HTML in which every text of a record is escaped.

    Args:
        table: The comparison table.
        records: What it was made of.
    """
    told = [*_balls(records), *(line for line, _ in legend(table, best=""))] if table.rows and table.columns else []
    lines = "".join(f"<div><small>{html.escape(line)}</small></div>" for line in told)
    return f"{table.frame().to_html(escape=True)}{lines}"


def _balls(records: Iterable[Record]) -> Iterator[str]:
    """Within which ball evasion attacks had to stay; for each suite where that is not the same for all."""
    within: dict[str, dict[str, None]] = {}
    for record in main_records(records):
        if record.radius is not None:
            within.setdefault(f"{record.norm} ball of radius {record.radius:g}", {})[record.suite] = None
    for ball, suites in within.items():
        whose = f" of {', '.join(suites)}" if len(within) > 1 else ""
        yield f"evasion attacks{whose}: {ball}"
