"""`robustsuite run`: a suite, from data to report."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from robustsuite.cli.console import say, set_up
from robustsuite.cli.ending import advise, leave, say_errors, show
from robustsuite.cli.options import AsJson, Device, Overrides, Plugins, Quiet, Seed, Trusted, Verbose
from robustsuite.cli.progress import progress_on

if TYPE_CHECKING:
    from robustsuite.runner.run import RunOutcome
    from robustsuite.suite.schema import Suite

RUNS: Final = Path("runs")
_Address = Annotated[
    str | None, typer.Option(help="Where the Ray cluster is; auto finds one.", show_default="one is started here")
]
_Workers = Annotated[
    int | None, typer.Option(help="Processes.", show_default="2, or as many cores as there are; a cluster whole")
]
_Threads = Annotated[
    int | None, typer.Option(help="Threads per worker; part of every key.", show_default="the suite's")
]
_Timeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds after which a training or a cell counts as hanging, is stopped, and becomes an error.",
        show_default="none",
    ),
]


def run(
    suite: Annotated[
        str | None,
        typer.Argument(help="A YAML file, a built-in suite, or the suite.yaml of a run.", show_default="quickstart"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/<name>")] = None,
    overrides: Overrides = None,
    seed: Seed = None,
    repeats: Annotated[int | None, typer.Option(help="Independent trainings.", show_default="the suite's")] = None,
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="What runs the cells: local, or ray (an extra) on a cluster.")] = "local",
    address: _Address = None,
    workers: _Workers = None,
    threads: _Threads = None,
    timeout: _Timeout = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what the folder holds, and take nothing from the cache.")
    ] = False,
    cached: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Share results with other runs (see `robustsuite cache`).")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and about how long it takes; do nothing.")
    ] = False,
    as_json: AsJson = False,
    plugins: Plugins = None,
    trust: Trusted = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a suite: train, defend, attack, judge, compare.

    A run that was interrupted goes on where it stopped when the same command is given again. Of the code that a suite
    names, that of the working folder runs, and what --trust and --plugin name; in a dry run only the latter.
    """
    set_up(verbose=verbose)
    from robustsuite.core import checks
    from robustsuite.plugins.trust import Trust
    from robustsuite.suite.load import load_suite

    given = {"seed": seed, "repeats": repeats, "threads": threads}
    typed = [f"{key}={value}" for key, value in given.items() if value is not None]
    named = Trust(named=tuple(trust or ()), folder=None if dry_run else Path.cwd(), defers=dry_run)
    loaded = load_suite(suite, [*(overrides or ()), *typed], plugins or (), named)
    asked = {
        "workers": default_workers(engine) if workers is None else checks.integer("workers", workers, low=1),
        "device": device,
        "engine": engine,
        "address": address,
        "timeout": timeout,
        "apart": True,
        "fresh": fresh,
        "cached": cached,
    }
    folder = choose_folder(suite, out, loaded.name, fresh=fresh)
    if dry_run:
        from robustsuite.runner.run import preview

        typer.echo(preview(loaded, folder, **asked).describe())
        return
    outcome = _play(loaded, folder, asked, quiet=quiet)
    conclude(outcome, quiet=quiet, as_json=as_json)


def default_workers(engine: str = "local") -> int | None:
    """Two processes where there are two cores, each single-threaded by default; as many as a cluster has room for."""
    return None if engine == "ray" else min(2, os.cpu_count() or 1)


def choose_folder(source: str | None, out: Path | None, name: str, *, fresh: bool) -> Path:
    """The run's folder; a suite that lies inside a run's folder must not overwrite it unasked.

    Raises:
        RequestError: The suite was read from a run's folder, and neither `out` nor `fresh` was given.
    """
    from robustsuite.core import checks

    if out is not None:
        return out
    path = Path(source) if source is not None else None
    home = path if path is not None and path.is_dir() else path.parent if path is not None else None
    if home is None or not (home / "records.jsonl").is_file():
        return RUNS / name
    if not fresh:
        remedy = (
            f"add --out DIR for another run, --out {shlex.quote(str(home))} to go on there, or --fresh to start it over"
        )
        raise checks.fail("--out or --fresh beside a suite from a run's folder", "suite", source, remedy)
    return home


def _play(suite: Suite, folder: Path, asked: dict[str, Any], *, quiet: bool) -> RunOutcome:
    from robustsuite.runner.run import run as run_suite

    with progress_on(sys.stderr, quiet=quiet) as progress:
        return run_suite(
            suite,
            folder,
            progress=progress,
            announce=lambda plan: progress.announce(plan.describe()),
            tell=lambda what: progress.announce(f"note: {what}"),
            **asked,
        )


def conclude(outcome: RunOutcome, *, quiet: bool, as_json: bool = False) -> None:
    """Write the report, print the table and the gates' verdicts, and exit as they ask."""
    from robustsuite.report.files import write
    from robustsuite.report.report import Report
    from robustsuite.results import gates

    report = Report.load(outcome.folder)
    verdicts = gates.judged(report)
    write(report, judged=verdicts)
    counts = {"ran": outcome.ran, "reused": outcome.reused, "recalled": outcome.recalled}
    recalled = f", {outcome.recalled} from the cache" if outcome.recalled else ""
    said = f"{outcome.ran} cells run, {outcome.reused} reused{recalled}"
    show(report, verdicts, outcome.folder, quiet=quiet, as_json=as_json, said=said, **counts)
    advise(outcome.records, quiet=quiet)
    say_errors(outcome.records, lambda record: f"{record.defense} x {record.attack} (repeat {record.repeat})")
    if outcome.errors:
        where = outcome.folder / "records.jsonl"
        say(f"{outcome.errors} of {len(outcome.records)} cells failed; tracebacks stand in {where}")
    leave(outcome.records, verdicts)
