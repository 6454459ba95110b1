"""`robustsuite selftest`: games with known answers, played here and now."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from robustsuite.cli.console import results, say, set_up
from robustsuite.cli.options import Quiet, Verbose
from robustsuite.cli.progress import progress_on

if TYPE_CHECKING:
    from robustsuite.testing.known_answers.known_answer import Result


def selftest(
    names: Annotated[list[str] | None, typer.Argument(help="Known-answer tests to run; all by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run known-answer tests in under a minute; exit 1 where one comes out otherwise."""
    set_up(verbose=verbose)
    from robustsuite.testing.known_answers.catalogue import chosen
    from robustsuite.testing.known_answers.known_answer import outcomes

    tests = chosen(names or ())
    with progress_on(sys.stderr, quiet=quiet) as progress:
        found = list(outcomes(tests, progress))
    if as_json:
        typer.echo(json.dumps([{**dataclasses.asdict(result), "ok": result.ok} for result in found], indent=2))
    else:
        _print(found)
    failed = [result.name for result in found if not result.ok]
    say(f"{len(found) - len(failed)} of {len(found)} tests as expected, in {sum(r.seconds for r in found):.1f} s")
    if failed:
        say(f"failed: {', '.join(failed)}; numbers from this installation are not to be believed")
        raise typer.Exit(1)


def _print(found: list[Result]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = results()
    for result in found:
        mark = Text("ok", "green") if result.ok else Text("FAILED", "bold red")
        title = Text.assemble(mark, " ", (result.name, "bold"), f" ({result.seconds:.1f} s): {result.summary}")
        console.print(title)
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(result.findings))
        for heading in ("  measured", "expected", "got", ""):
            table.add_column(heading, overflow="fold")
        for finding in result.findings:
            word = Text("ok", "green") if finding.ok else Text("FAILED", "bold red")
            table.add_row(f"  {finding.what}", finding.expected, finding.measured, word)
        console.print(table)
        if result.error:
            console.print(Text(result.error, "red"))
