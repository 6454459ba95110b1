"""How a command ends: table, verdicts of the gates, files and errors, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from robustsuite.cli.console import results, say, tables

if TYPE_CHECKING:
    from rich.console import Console

    from robustsuite.evaluation.records import Record
    from robustsuite.report.report import Report
    from robustsuite.results.deciding import Verdict

_STYLES: Final = {"passed": "bold green", "failed": "bold red", "inconclusive": "bold yellow"}


def show(
    report: Report,
    verdicts: Sequence[Verdict],
    folder: Path | None,
    *,
    quiet: bool,
    as_json: bool,
    said: str = "",
    **counts: int,
) -> None:
    """Print table and verdicts, or all of it as one JSON object, and name the files for people."""
    from robustsuite.report.export.step_summary import publish

    console = tables(as_json=as_json, quiet=quiet)
    report.show(console)
    pronounce(verdicts, console)
    publish(report, verdicts)
    if said:
        say(said, quiet=quiet)
    if as_json:
        print_outcome(report, verdicts, **counts)
    elif folder is not None:
        for name in ("report.html", "results.csv"):
            typer.echo(str(folder / name))


def pronounce(verdicts: Sequence[Verdict], console: Console | None = None) -> None:
    """One line a verdict on standard output (or `console`), its outcome first; nothing without gates."""
    from rich.text import Text

    console = console if console is not None else results()
    for verdict in verdicts:
        word = verdict.outcome.value
        line = Text(verdict.message)
        line.stylize(_STYLES[word], 0, len(word))
        encoding = console.encoding
        if not encoding.lower().startswith("utf"):
            line = Text(verdict.message.encode(encoding, "replace").decode(encoding))
        console.print(line, soft_wrap=True)


def print_outcome(report: Report, verdicts: Sequence[Verdict], **counts: Any) -> None:
    """One JSON object on standard output."""
    from robustsuite.report.export.outcome import outcome

    typer.echo(json.dumps(outcome(report, verdicts, **counts), indent=2, ensure_ascii=False))


def say_errors(records: Iterable[Record], called: Callable[[Record], str]) -> None:
    """The last line of what each cell raised, on standard error."""
    for record in records:
        if record.status == "error":
            last = (record.message.strip().splitlines() or ["no message"])[-1]
            say(f"error: {called(record)}: {last}")


def advise(records: Iterable[Record], *, quiet: bool) -> None:
    """What went wrong in the trainings, on standard error: a line a defence and diagnosis, of its first repeat."""
    from robustsuite.training.diagnosis import read

    told = {(record.defense, found.name): found for record in reversed([*records]) for found in read(record.training)}
    for (defense, _), found in sorted(told.items()):
        say(f"advice: {defense}: {found}", quiet=quiet)


def leave(records: Iterable[Record], verdicts: Sequence[Verdict]) -> None:
    """End with 1 where a cell raised or a gate failed, else with 3 where a gate is inconclusive.

    Raises:
        Exit: The exit code is not 0.
    """
    from robustsuite.results.gates import exit_code

    code = exit_code(records, verdicts)
    if code:
        raise typer.Exit(code)
