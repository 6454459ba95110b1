"""The comparison table, and what follow-up attacks found, as Markdown; the former also as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from robustsuite.results import followed_up
from robustsuite.results.cells import MARK, Column, ComparisonTable, TableCell

if TYPE_CHECKING:
    from robustsuite.evaluation.records import Record

_LATEX: Final = {
    **{c: "\\" + c for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "∞": r"$\infty$",
    "–": "--",
    MARK: r"\textsuperscript{\dag}",
}


def markdown(table: ComparisonTable) -> str:
    """A pipe table with bold best values, daggers on doubted ones, and a legend below."""
    heads = ["defence", *(_markdown_head(column) for column in table.columns)]
    rows = [
        [escape_markdown(label), *map(_markdown_cell, cells)]
        for label, cells in zip(table.rows, table.cells, strict=True)
    ]
    lines = pipes(heads, [":---", *["---:"] * len(table.columns)], rows)
    told = f"Intervals are 95 %. **Bold**: best of its column, follow-up attacks included.{_question(table)}"
    notes = [told] if table.rows else []
    for flag, where in table.legend():
        told = f": {flag.meaning}. {flag.remedy.capitalize()}".rstrip(". ") + "." if flag.meaning else ""
        notes.append(f"- {MARK} {_code(flag.code)} ({escape_markdown(where)}){escape_markdown(told)}")
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def follow_ups(records: Iterable[Record]) -> str:
    """What follow-up attacks found, as a table in Markdown; empty where nothing was followed up."""
    rows = [[cell.replace("|", "/") for cell in row] for row in followed_up.rows(records)]
    lines = pipes(followed_up.HEADINGS, ["---"] * len(followed_up.HEADINGS), rows) if rows else []
    return "".join(f"{line}\n" for line in lines)


def pipes(heads: Iterable[str], sides: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table in Markdown; `sides` are such as `---:`, and whoever gives the cells has escaped them."""
    return [f"| {' | '.join(line)} |" for line in (heads, sides, *rows)]


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: one line, no markup, no HTML, no cell border."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", flat)


def _question(table: ComparisonTable) -> str:
    return " ?: inconclusive." if table.inconclusive else ""


def _code(text: str) -> str:
    """A code in code type; whatever does not look like one is escaped instead."""
    return f"`{text}`" if re.fullmatch(r"[\w.-]+", text) else escape_markdown(text)


def _markdown_head(column: Column) -> str:
    if column.attack and column.subtitle:
        return f"{escape_markdown(column.title)}<br>{escape_markdown(column.subtitle)}"
    return escape_markdown(column.heading)


def _markdown_cell(cell: TableCell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text}{cell.mark} {escape_markdown(cell.interval)}".strip()


def latex(table: ComparisonTable) -> str:
    """A booktabs table with bold best values, daggers on doubted ones, and a legend below."""
    heads = " & ".join(["Defence", *(escape_latex(column.title) for column in table.columns)])
    units = " & ".join(["", *(escape_latex(column.subtitle) for column in table.columns)])
    body = [
        " & ".join([escape_latex(label), *(_latex_cell(cell) for cell in cells)]) + r" \\"
        for label, cells in zip(table.rows, table.cells, strict=True)
    ]
    notes = [_latex_note(flag.code, where, flag.meaning) for flag, where in table.legend()]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering\small",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
            r"\toprule",
            heads + r" \\",
            units + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\caption{Comparison of defences. Brackets: 95\,\% intervals. "
            "Bold: best of its column, follow-up attacks included." + _question(table) + "".join(notes) + "}",
            r"\end{table}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is, on one line."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_cell(cell: TableCell) -> str:
    text = escape_latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best else text
    small = rf" {{\scriptsize {cell.interval}}}" if cell.interval else ""
    return f"{text}{escape_latex(cell.mark)}{small}"


def _latex_note(code: str, where: str, meaning: str) -> str:
    told = f": {meaning}" if meaning else ""
    return escape_latex(f" {MARK} {code} ({where}){told}.")
