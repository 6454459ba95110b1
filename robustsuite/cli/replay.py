"""`robustsuite replay`: repeat one judged cell and say whether it agrees with its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustsuite.cli.console import say, set_up
from robustsuite.cli.options import Plugins, Quiet, Trusted, Verbose

if TYPE_CHECKING:
    from robustsuite.evaluation.records import Record
    from robustsuite.runner.replay import Replay


def replay(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    key: Annotated[str, typer.Argument(help="Key of a record (see results.csv), or a beginning that is its own.")],
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train again, rather than take the run's trained weights.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.", show_default="the record's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    plugins: Plugins = None,
    trust: Trusted = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Repeat one cell of a run and say whether it agrees: exit 0 where it does, 1 where it differs.

    Where the suite sets other rules of the game by now, or other options of the attack, they are named, and it is
    inconclusive: exit 3.

    Metrics (times aside), flags, status and every per-sample column must come out the same. The run's folder and the
    cache stay as they are. Of the code that its suite names nothing runs but what --trust and --plugin name.
    """
    set_up(verbose=verbose)
    from robustsuite.runner.replay import called
    from robustsuite.runner.replay import replay as repeat

    def announce(record: Record, changed: tuple[str, ...]) -> None:
        say(f"replaying {record.key}: {called(record)}", quiet=quiet)
        for what in changed:
            say(f"note: not as in the run: {what}")

    typed = {"plugins": tuple(plugins or ()), "trust": tuple(trust or ())}
    found = repeat(folder, key, retrain=retrain, device=device, **typed, announce=announce)
    for note in found.notes:
        say(f"note: {note}", quiet=quiet)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        _tell(found, retrain=retrain)
    if not found.agrees:
        raise typer.Exit(3 if found.rules else 1)


def _tell(found: Replay, *, retrain: bool) -> None:
    record = found.recorded
    if found.trained:
        why = "" if retrain else ", for want of the run's weights"
        typer.echo(f"trained again{why}: {found.trained}")
    if found.rules:
        typer.echo(f"inconclusive, for it is another game: {found.rules}")
    if found.agrees:
        samples = ", every sample" if record.samples else ""
        typer.echo(f"agrees: status {record.status}, {len(record.metrics)} metrics, {len(record.flags)} flags{samples}")
        return
    if found.differences:
        typer.echo("differs:")
    for difference in found.differences:
        typer.echo(f"  {difference}")
