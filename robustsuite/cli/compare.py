"""`robustsuite compare`: a release against the one before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from robustsuite.cli.console import results, set_up

if TYPE_CHECKING:
    from robustsuite.results.compare import Comparison

FORMATS: Final = ("terminal", "json", "md", "csv")
EXITS: Final = {"passed": 0, "failed": 1, "inconclusive": 3}


def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Folder of the released run.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder of the run that is to replace it.")],
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="Compare only this figure; repeatable.", show_default="all")
    ] = None,
    min_effect: Annotated[
        float,
        typer.Option(
            help="Least worsening of a rate that counts. Half a point is about what two trainings of one recipe differ "
            "by; on many samples less than that can be significant, and no release waits for it."
        ),
    ] = 0.005,
    alpha: Annotated[float, typer.Option(help="Chance of any false alarm in the whole table, at most.")] = 0.05,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Excuse figures that the old run has and the new one lacks (attacks, defences, repeats); not "
            "those that were measured under other rules, that are in doubt now, or whose files were changed.",
        ),
    ] = False,
    curve: Annotated[bool, typer.Option("--curve", help="Also compare points of curves at other radii.")] = False,
    form: Annotated[str, typer.Option("--format", help=f"What is printed: {', '.join(FORMATS)}.")] = "terminal",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for comparison.json, .csv and .md; nothing is written without.")
    ] = None,
) -> None:
    """Compare two runs sample by sample, and fail on a regression.

    Cells are joined by what they are called (defence, attack, scenario, norm, radius, repeat), samples by their id. A
    regression is significant at the level of the whole table (McNemar's exact test, Holm's adjustment; over several
    repeats a test that holds how much trainings differ) and at least the least effect; a cell that fails now and a
    privacy guarantee that got weaker are regressions too. With one repeat it is about these trained models only.

    Exit codes: 0 no regression was found; 1 a regression; 2 the request is wrong; 3 no verdict: no figure could be
    tested; or one that was measured before is missing, was measured under other rules, cannot be read or is in doubt
    now; or one looks worse and cannot be decided, since trainings scatter as much or the old figure was under doubt.
    """
    set_up()
    from robustsuite.core import checks
    from robustsuite.results.compare import compare as compare_runs

    wanted = checks.one_of("format", "json" if as_json else form, FORMATS)
    asked = {"min_effect": min_effect, "alpha": alpha, "metrics": metrics or (), "curve": curve}
    found = compare_runs(old, new, **asked, allow_missing=allow_missing)  # type: ignore[arg-type]  # each as declared
    if wanted == "terminal":
        from robustsuite.report.export.compare_text import terminal

        terminal(found, results())
    else:
        typer.echo(_text(found, wanted).rstrip("\n"))
    if out is not None:
        _write(found, out, quiet=wanted != "terminal")
    if EXITS[found.outcome]:
        raise typer.Exit(EXITS[found.outcome])


def _text(found: Comparison, form: str) -> str:
    from robustsuite.report.export.compare_text import markdown

    if form == "json":
        return json.dumps(found.as_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    return markdown(found) if form == "md" else found.frame.to_csv(index=False, lineterminator="\n")


def _write(found: Comparison, folder: Path, *, quiet: bool) -> None:
    from robustsuite.storage.files import write_atomically

    for form in ("json", "csv", "md"):
        path = folder / f"comparison.{form}"
        write_atomically(path, _text(found, form).encode())
        typer.echo(str(path), err=quiet)
