"""The comparison table on a terminal: as many tables as the width needs, no figure ever cut; and follow-up attacks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Literal

from robustsuite.results import followed_up, time_limits, words
from robustsuite.results.cells import MARK, Column, ComparisonTable, TableCell
from robustsuite.results.worst_case import WORST

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from robustsuite.evaluation.records import Record

_HEAD: Final = 13  # headings wrap at this many characters, unless a figure below is wider
_LABEL: Final = 24  # and labels of defences at this many
_PLAIN: Final = str.maketrans({"†": "!", "–": "-", "↑": "^", "↓": "v", "∞": "inf", "·": "-", "…": "..."})
_BEST: Final = "*"
_DEFENCE: Final = "defence"
_WIDE: Final = 140  # width of a terminal from which all of the follow-up attacks is listed; the table has the rest too
_FIGURES: Final = ("clean", "attack alone", "with follow-ups", "undefended")


def terminal(table: ComparisonTable, console: Console) -> None:
    """Print the table and its legend, split by family of attack where it is wider than the console.

    The best figure of a column carries a star and a figure under doubt a dagger, so both survive NO_COLOR and pipes.

    Args:
        table: What to print.
        console: Where to; its width, colour and encoding are respected.
    """
    from rich.text import Text

    if not table.rows or not table.columns:
        console.print("no records yet", markup=False)
        return
    for part in _parts(table, console.width):
        draw(_table(table, part, console), console)
    for line, style in legend(table):
        console.print(Text(fit(line, console), style=style))


def follow_ups(records: Iterable[Record], console: Console) -> None:
    """Print what follow-up attacks found; nothing where nothing was followed up."""
    from rich.text import Text

    found = followed_up.rows(records)
    if not found:
        return
    table = grid("follow-up attacks: robust accuracy %", console)
    aside = () if console.width >= _WIDE else ("undefended", "suspicions")
    shown = [i for i, heading in enumerate(followed_up.HEADINGS) if heading not in aside]
    for heading in (followed_up.HEADINGS[i] for i in shown):
        wraps = heading in ("flags", "broken by")
        side: Literal["left", "right"] = "right" if heading in _FIGURES else "left"
        table.add_column(Text(heading), justify=side, no_wrap=not wraps, min_width=10 if wraps else None)
    for row in found:
        table.add_row(*(Text(fit(row[i], console)) for i in shown))
    draw(table, console)


def limits(records: Iterable[Record], console: Console) -> None:
    """Print what a budget of time allowed; nothing where there was none."""
    from rich.text import Text

    for told in time_limits.sentences(records):
        console.print(Text(fit(told, console)), soft_wrap=True)


def grid(title: str, console: Console, **options: Any) -> Table:
    """An empty table in characters that the console can show, with options as `rich.table.Table` takes them."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shape = box.SIMPLE_HEAD if console.encoding.lower().startswith("utf") else box.ASCII2
    return Table(box=shape, pad_edge=False, title=Text(fit(title, console), style="dim"), **options)


def draw(table: Table, console: Console) -> None:
    """Print a table; what is too wide for the console is cut by a sign that it can show, or by none."""
    if not console.encoding.lower().startswith("utf"):
        for column in table.columns:
            column.overflow = "fold"  # rich would write an ellipsis
    console.print(table)


def fit(text: str, console: Console) -> str:
    """Characters that the console can show; those that it cannot are replaced, none stops the table."""
    if console.encoding.lower().startswith("utf"):
        return text
    return text.translate(_PLAIN).encode(console.encoding, "replace").decode(console.encoding)


def _parts(table: ComparisonTable, width: int) -> Iterator[list[int]]:
    """Column numbers of each table: all in one where they fit, else whole families, else pieces of one."""
    label = max(len(line) for row in (_DEFENCE, *table.rows) for line in _wrap(row, _LABEL))
    room = width - label - 2
    wide = [_width(column, [row[i] for row in table.cells]) + 2 for i, column in enumerate(table.columns)]
    families = [list(group) for _, group in groupby(range(len(wide)), key=lambda i: table.columns[i].scenario)]
    current: list[int] = []
    for group in families:
        if sum(wide[i] for i in current + group) <= room:
            current += group
            continue
        if current:
            yield current
        *full, current = _pieces(group, wide, room)
        yield from full
    if current:
        yield current


def _pieces(group: Sequence[int], wide: Sequence[int], room: int) -> list[list[int]]:
    pieces: list[list[int]] = [[]]
    for i in group:
        if pieces[-1] and sum(wide[j] for j in pieces[-1]) + wide[i] > room:
            pieces.append([])
        pieces[-1].append(i)
    return pieces


def _width(column: Column, cells: Sequence[TableCell]) -> int:
    figures = max(len(line) for cell in cells for line in _lines(cell))
    return max(figures, *(len(line) for line in _heading(column, figures)))


def _heading(column: Column, figures: int) -> list[str]:
    room = max(_HEAD, figures)
    return [*_wrap(column.title, room), *(_wrap(column.subtitle, room) if column.subtitle else [])]


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width`, broken behind spaces and the joints of names, or anywhere where there is none."""
    lines = [""]
    for word in re.findall(r"[^\s\-+:_/,]*[\s\-+:_/,]?", " ".join(text.split())):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip() for line in lines]


def _lines(cell: TableCell) -> list[str]:
    figure = f"{cell.text}{_BEST * cell.best}{cell.mark}"
    return [figure, cell.interval] if cell.interval else [figure]


def _table(table: ComparisonTable, part: Sequence[int], console: Console) -> Table:
    from rich.text import Text

    families = " · ".join(dict.fromkeys(words.family(table.columns[i].scenario) for i in part))
    drawn = grid(families, console, collapse_padding=True, title_justify="left")
    drawn.add_column(Text(_DEFENCE), no_wrap=True)
    for i in part:
        figures = max(len(line) for row in table.cells for line in _lines(row[i]))
        heading = "\n".join(_heading(table.columns[i], figures))
        drawn.add_column(Text(fit(heading, console)), justify="right", no_wrap=True, vertical="top")
    for label, cells in zip(table.rows, table.cells, strict=True):
        drawn.add_row(Text(fit("\n".join(_wrap(label, _LABEL)), console)), *(_text(cells[i], console) for i in part))
    return drawn


def _text(cell: TableCell, console: Console) -> Text:
    from rich.text import Text

    style = {"error": "red", "not_applicable": "dim", "not_run": "dim", "inconclusive": "dim"}.get(cell.status, "")
    figure, *interval = _lines(cell)
    text = Text(fit(figure, console), style="bold green" if cell.best else style, justify="right")
    if interval:
        text.append("\n" + fit(interval[0], console), style="dim not bold")
    return text


def legend(table: ComparisonTable, *, best: str = _BEST) -> Iterator[tuple[str, str]]:
    """What the marks mean, a line each and its style.

    Args:
        table: What is shown.
        best: The mark of the best figure of a column; empty where none is shown.
    """
    marks = ["[…] 95 % confidence interval"]
    if any(column.attack == WORST for column in table.columns):
        marks += ["an attack's column: that attack alone", "verdict: all attacks and follow-up attacks together"]
    if best and any(cell.best for row in table.cells for cell in row):
        marks += [f"{best} best of its column, follow-up attacks included"]
    marks += ["? inconclusive: supports no conclusion"] if table.inconclusive else []
    yield " · ".join(marks), "dim"
    for flag, where in table.legend():
        told = f": {flag.meaning}" if flag.meaning else ""
        remedy = f"; {flag.remedy}" if flag.remedy else ""
        yield f"{MARK} {flag.code} ({where}){told}{remedy}", "yellow"
