"""`robustsuite report`: tables and reports again, from records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from robustsuite.cli.console import results, set_up

if TYPE_CHECKING:
    from robustsuite.gates import Verdict
    from robustsuite.report.report import Report


FORMATS: Final = ("terminal", "json", "github", "html", "md", "csv", "latex", "junit", "sarif")


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs.")],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"{', '.join(FORMATS)}; repeatable.", show_default="terminal"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="How each run ended, as `run --json` says it; one JSON object a folder.")
    ] = False,
) -> None:
    """Draw tables and reports again from records.

    `terminal`, `json` (the records) and `github` (Markdown for a step's summary) are printed; the other formats are
    written into each folder, and their paths printed.
    """
    set_up()
    from robustsuite import checks
    from robustsuite.report.report import Report

    default = [] if as_json else ["terminal"]
    wanted = [checks.one_of("format", name, FORMATS) for name in formats or default]
    for folder, loaded in [(folder, Report.load(folder)) for folder in folders]:
        if as_json:
            print_outcome(loaded, _judged(loaded))
        for name in wanted:
            _draw(name, folder, loaded)


def _draw(name: str, folder: Path, loaded: Report) -> None:
    if name in _PRINTERS:
        _PRINTERS[name](loaded)
        return
    from robustsuite.report.files import write

    for path in write(folder, formats=[name]):
        typer.echo(str(path))


def _terminal(loaded: Report) -> None:
    from rich.text import Text

    console = results()
    console.print(Text(heading(loaded), style="bold"), soft_wrap=True)
    loaded.show(console)
    console.print()


def heading(loaded: Report) -> str:
    """Which run a table is of: its folder, suite, data, model and ball."""
    first: dict[str, dict[str, None]] = {"suite": {}, "dataset": {}, "model": {}}
    for record in loaded.records:
        for name, values in first.items():
            values[getattr(record, name)] = None
    ball = next((f"{r.norm} radius {r.radius:g}" for r in loaded.records if r.radius is not None), "no ball")
    told = [f"{name} {' + '.join(values)}" for name, values in first.items()]
    return f"{loaded.folder}: {', '.join((*told, ball))}"


def _records(loaded: Report) -> None:
    typer.echo(json.dumps([json.loads(record.line()) for record in loaded.records], ensure_ascii=False))


def _github(loaded: Report) -> None:
    from robustsuite.report.step_summary import step_summary

    typer.echo(step_summary(loaded, _judged(loaded)), nl=False)


_PRINTERS: Final[dict[str, Callable[[Report], None]]] = {
    "terminal": _terminal,
    "json": _records,
    "github": _github,
}


def _judged(loaded: Report) -> tuple[Verdict, ...]:
    from robustsuite import gates

    return gates.judge(gates.load(loaded.folder), loaded) if loaded.folder is not None else ()


def print_outcome(loaded: Report, judged: tuple[Verdict, ...], **counts: Any) -> None:
    """One JSON object on standard output."""
    from robustsuite.report.outcome import outcome

    typer.echo(json.dumps(outcome(loaded, judged, **counts), indent=2, ensure_ascii=False))
