"""A comparison of two runs on a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from robustsuite.evaluation.records import CLEAN
from robustsuite.report.export.markup import escape_markdown, pipes
from robustsuite.report.export.terminal import draw, fit, grid
from robustsuite.results import words
from robustsuite.results.changes import Change, Gap, Row

if TYPE_CHECKING:
    from rich.console import Console

    from robustsuite.results.compare import Comparison

HEADINGS: Final = ("defence", "attack", "figure", "old", "new", "change", "95 %", "flips", "p (Holm)", "verdict")
_STYLES: Final = {
    Change.REGRESSION: "bold red",
    Change.IMPROVEMENT: "bold green",
    Change.IN_DOUBT: "yellow",
    Change.UNDECIDED: "bold yellow",
    Change.NOT_COMPARABLE: "yellow",
    Change.ONLY_OLD: "yellow",
}
_NOTABLE: Final = 0.05  # relative change from which an untested figure of the clean evaluation is shown
_NAMED: Final = 4


def terminal(comparison: Comparison, console: Console) -> None:
    """Print the table, what has to be said of its rows, and the verdict; colour says nothing that words do not."""
    from rich.text import Text

    for note in comparison.notes:
        console.print(Text(fit(note, console), style="dim"))
    for title, rows in _parts(comparison):
        drawn = grid(title, console, title_justify="left")
        for i, heading in enumerate(HEADINGS):
            drawn.add_column(heading, justify="left" if i < 3 or i == len(HEADINGS) - 1 else "right")
        for row in rows:
            style = _STYLES.get(row.verdict, "")
            drawn.add_row(*(Text(fit(part, console)) for part in cells(row)[:-1]), Text(row.verdict, style=style))
        draw(drawn, console)
    for line in _remarks(comparison):
        console.print(Text(fit(line, console)), soft_wrap=True)
    console.print(Text(fit(comparison.summary(), console), style="bold"), soft_wrap=True)


def markdown(comparison: Comparison) -> str:
    """The same as pipe tables, with the verdict first."""
    lines = [f"**{comparison.outcome}**: {escape_markdown(comparison.summary())}", ""]
    lines += [f"{escape_markdown(note)}  " for note in comparison.notes]
    for title, rows in _parts(comparison):
        sides = [":---"] * 3 + ["---:"] * 6 + [":---"]
        lines += ["", f"{title}:", "", *pipes(HEADINGS, sides, map(_escaped, rows))]
    lines += ["", *(f"- {escape_markdown(line)}" for line in _remarks(comparison))]
    return "\n".join(lines).rstrip() + "\n"


def _escaped(row: Row) -> list[str]:
    *parts, verdict = map(escape_markdown, cells(row))
    return [*parts, f"**{verdict}**" if row.verdict in (Change.REGRESSION, Change.IMPROVEMENT) else verdict]


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, under `HEADINGS`: rates in percent, their changes in points."""
    old, new = ("–" if value is None else words.figure(value, row.unit) for value in (row.old, row.new))
    rate = row.unit in ("rate", "rate difference")
    change = ""
    if row.difference is not None:
        change = words.figure(row.difference, "rate difference") if rate else f"{row.difference:+.3g}"
    flips = "" if row.worse is None else f"-{row.worse} +{row.improved}"
    return (
        row.defense,
        row.attack if row.attack != "none" else "–",
        row.words or words.title(row.metric),
        old,
        new,
        change,
        words.interval(row.low, row.high, "rate difference"),
        flips,
        "" if row.adjusted is None else "<0.001" if row.adjusted < 0.001 else f"{row.adjusted:.3f}",
        row.verdict.value,
    )


def _parts(comparison: Comparison) -> Iterator[tuple[str, list[Row]]]:
    """What has a verdict, and what stands beside and moved."""
    judged = [row for row in comparison.rows if row.verdict is not Change.BESIDE]
    if judged:
        yield "Samples of both runs", judged
    beside = [row for row in comparison.rows if row.verdict is Change.BESIDE and _moved(row)]
    if beside:
        yield "Beside, not tested", beside


def _moved(row: Row) -> bool:
    """Whether an untested figure is worth a line: its intervals lie apart, or the clean evaluation's moved."""
    if row.message:
        return row.old is not None and row.new is not None
    if row.attack != CLEAN or not row.old or row.new is None:
        return False
    return abs(row.new - row.old) > _NOTABLE * abs(row.old)


def _remarks(comparison: Comparison) -> Iterator[str]:
    """What has to be said beside the figures, each once, with the cells that it is about."""
    told: dict[str, list[Row]] = {}
    for row in comparison.rows:
        if row.message and (row.verdict is not Change.BESIDE or _moved(row)):
            told.setdefault(row.message, []).append(row)
        if row.repeats_needed is not None and row.verdict is Change.UNDECIDED:
            needed = f"with {row.repeats_needed} repeats in place of {row.repeats}"
            told.setdefault(f"{needed} a difference like this one is called in four of five", []).append(row)
        if row.gap not in (Gap.NONE, Gap.INCOMPARABLE):
            told.setdefault(row.gap.value, []).append(row)
        if row.verdict is not Change.BESIDE:
            for code in row.flags:
                told.setdefault(f"new doubt: {code}", []).append(row)
            for code in row.flags_gone:
                told.setdefault(f"doubt gone: {code}", []).append(row)
    for message, rows in told.items():
        yield f"{_named(rows)}: {message}"
    hidden = sum(row.verdict is Change.BESIDE and not _moved(row) for row in comparison.rows)
    if hidden:
        yield f"{hidden} untested figures that hardly moved are left out here; JSON and CSV have them"


def _named(rows: Iterable[Row]) -> str:
    told = (f"{row.defense} x {row.attack}, {row.words or words.title(row.metric)}".rstrip(", ") for row in rows)
    names = list(dict.fromkeys(told))
    return words.some(names, _NAMED, "; ")
