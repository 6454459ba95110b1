"""`robustsuite export`: runs into other people's stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from robustsuite.cli.console import set_up

app = typer.Typer(help="Write runs to other stores.", no_args_is_help=True)


@app.callback()
def stores() -> None:
    """Write runs to other stores."""


@app.command("mlflow")
def mlflow(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs.")],
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="The tracking server, such as http://localhost:5000.", show_default="$MLFLOW_TRACKING_URI"),
    ] = None,
    experiment: Annotated[
        str, typer.Option(envvar="MLFLOW_EXPERIMENT_NAME", help="Name of the experiment; made where it is not there.")
    ] = "robustsuite",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a folder.")] = False,
) -> None:
    """Write runs to an MLflow tracking server (needs the extra `mlflow`).

    One MLflow run a suite with tables and report as artefacts, and one nested in it for each defence with its figures.
    Exporting again brings the same runs up to date.
    """
    set_up()
    import dataclasses

    from robustsuite.report.export.mlflow_export import export
    from robustsuite.report.report import Report
    from robustsuite.results import gates

    for folder, report in [(folder, Report.load(folder)) for folder in folders]:
        done = export(report, gates.judged(report), tracking_uri=tracking_uri, experiment=experiment)
        if as_json:
            typer.echo(json.dumps({"folder": str(folder), **dataclasses.asdict(done)}))
        else:
            typer.echo(f"{folder}: run {done.run_id} with {len(done.children)} nested in {done.tracking_uri}")
