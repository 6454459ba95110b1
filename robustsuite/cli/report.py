"""`robustsuite report`: tables and reports again, from records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from robustsuite.cli.console import results, say, set_up
from robustsuite.cli.ending import print_outcome, pronounce

if TYPE_CHECKING:
    from robustsuite.report.report import Report
    from robustsuite.results.deciding import Verdict


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
    written into each folder, and their paths printed. What the gates say of each run stands below its table on the
    terminal.

    Exit codes: 0 every cell was measured or could not be, and every gate passed; 1 a gate failed or a cell raised; 3 a
    gate is inconclusive, also because a cell that the suite planned has no record, or records are not as they were
    written, with gates or without.
    """
    set_up()
    from robustsuite.core import checks
    from robustsuite.report.report import Report
    from robustsuite.results.gates import exit_code, judged

    default = [] if as_json else ["terminal"]
    wanted = [checks.one_of("format", name, FORMATS) for name in formats or default]
    codes = []
    for folder, loaded in [(folder, Report.load(folder)) for folder in folders]:
        verdicts = judged(loaded)
        for fault in loaded.lines.faults:
            say(f"note: {fault}; give the command of the run again")
        if loaded.lines.unsealed:
            say(f"note: records of {folder} carry no digests, so edits of them are not seen")
        if not (folder / "suite.yaml").is_file():
            say(f"note: {folder} has no suite.yaml, so nothing is known of its gates and of cells that were not run")
        if as_json:
            print_outcome(loaded, verdicts)
        for name in wanted:
            _draw(name, loaded, verdicts)
        codes.append(exit_code(loaded.records, verdicts) or (3 if loaded.lines.faults else 0))
    worst = next((code for code in (1, 3) if code in codes), 0)
    if worst:
        raise typer.Exit(worst)


def _draw(name: str, loaded: Report, verdicts: tuple[Verdict, ...]) -> None:
    if name in _PRINTERS:
        _PRINTERS[name](loaded, verdicts)
        return
    from robustsuite.report.files import write

    for path in write(loaded, [name], verdicts):
        typer.echo(str(path))


def _terminal(loaded: Report, verdicts: tuple[Verdict, ...]) -> None:
    from rich.text import Text

    console = results()
    console.print(Text(heading(loaded), style="bold"), soft_wrap=True)
    loaded.show(console)
    pronounce(verdicts, console)
    console.print()


def heading(loaded: Report) -> str:
    """Which run a table is of: its folder, suite, data, model and ball."""
    first: dict[str, dict[str, None]] = {"suite": {}, "dataset": {}, "model": {}}
    for record in loaded.records:
        for name, values in first.items():
            values[getattr(record, name)] = None
    ball = next((f"{r.norm} radius {r.radius:g}" for r in loaded.records if r.radius is not None), "no ball")
    told = [f"{name} {' + '.join(filter(None, values))}" for name, values in first.items()]  # factories have none
    return f"{loaded.folder}: {', '.join((*told, ball))}"


def _records(loaded: Report, _: tuple[Verdict, ...]) -> None:
    typer.echo(json.dumps([json.loads(record.line()) for record in loaded.records], ensure_ascii=False))


def _github(loaded: Report, verdicts: tuple[Verdict, ...]) -> None:
    from robustsuite.report.export.step_summary import step_summary

    typer.echo(step_summary(loaded, verdicts), nl=False)


_PRINTERS: Final[dict[str, Callable[[Report, tuple[Verdict, ...]], None]]] = {
    "terminal": _terminal,
    "json": _records,
    "github": _github,
}
