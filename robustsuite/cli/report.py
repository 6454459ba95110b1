"""`robustsuite report`: tables and reports again, from records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from robustsuite.cli.console import results, set_up

if TYPE_CHECKING:
    from robustsuite.report.report import Report

FORMATS: Final = ("terminal", "html", "md", "csv", "latex", "json")


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs.")],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"{', '.join(FORMATS)}; repeatable.", show_default="terminal"),
    ] = None,
) -> None:
    """Draw tables and reports again from records.

    `terminal` and `json` are printed; the other formats are written into each folder, and their paths printed.
    """
    set_up()
    from robustsuite import checks
    from robustsuite.report.report import Report

    wanted = [checks.one_of("format", name, FORMATS) for name in formats or ["terminal"]]
    for folder, loaded in [(folder, Report.load(folder)) for folder in folders]:
        for name in wanted:
            _draw(name, folder, loaded)


def _draw(name: str, folder: Path, loaded: Report) -> None:
    if name == "terminal":
        loaded.show(results())
    elif name == "json":
        typer.echo(json.dumps([json.loads(record.line()) for record in loaded.records], ensure_ascii=False))
    else:
        from robustsuite.report.files import write

        for path in write(folder, formats=[name]):
            typer.echo(str(path))
