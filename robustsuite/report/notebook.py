"""A report as a notebook shows it: the comparison table, what was allowed, and what the marks mean."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING

from robustsuite.report.table import main_rows, plain_rows
from robustsuite.report.terminal import legend

if TYPE_CHECKING:
    import pandas as pd

    from robustsuite.report.cells import ComparisonTable


def notebook(table: ComparisonTable, frame: pd.DataFrame) -> str:
    """HTML in which every text of a record is escaped.

    Args:
        table: The comparison table.
        frame: The tidy table that it was made of.
    """
    told = [*_balls(frame), *(line for line, _ in legend(table, best=""))] if table.rows and table.columns else []
    lines = "".join(f"<div><small>{html.escape(line)}</small></div>" for line in told)
    return f"{table.frame().to_html(escape=True)}{lines}"


def _balls(frame: pd.DataFrame) -> Iterator[str]:
    """Within which ball evasion attacks had to stay; for each suite where that is not the same for all."""
    within: dict[str, dict[str, None]] = {}
    for row in main_rows(plain_rows(frame)):
        if row["radius"] is not None:
            within.setdefault(f"{row['norm']} ball of radius {row['radius']:g}", {})[row["suite"]] = None
    for ball, suites in within.items():
        whose = f" of {', '.join(suites)}" if len(within) > 1 else ""
        yield f"evasion attacks{whose}: {ball}"
