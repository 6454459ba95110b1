"""The application: commands, exit codes, and what the user sees when a request is wrong."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from robustsuite.cli import cache, catalogue, compare, doctor, evaluate, export, replay, report, run, selftest, train
from robustsuite.cli.console import contained
from robustsuite.core.errors import ModelError, NotApplicableError, RequestError, RobustsuiteError
from robustsuite.core.version import __version__

FAILED: Final = 1
WRONG_REQUEST: Final = 2
INTERRUPTED: Final = 130


class Commands(TyperGroup):
    """The group that turns errors into a message on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            with contained():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on where it stopped", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except (RequestError, ModelError, NotApplicableError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(WRONG_REQUEST) from None
        except RobustsuiteError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(FAILED) from None


app = typer.Typer(
    cls=Commands,
    help="Train, defend, attack, judge, compare: robustness and security evaluation for PyTorch models.",
    epilog="Exit codes: 0 all done and every gate passed; 1 a gate failed or a cell raised; 2 the request is wrong, "
    "nothing was started; 3 a gate was asked for and the measurement supports no verdict; 130 interrupted, the same "
    "command goes on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("evaluate")(evaluate.evaluate)
app.command("train")(train.train)
app.command("list")(catalogue.list_names)
app.command("show")(catalogue.show)
app.command("replay")(replay.replay)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.add_typer(cache.app, name="cache")
app.add_typer(export.app, name="export")
app.command("doctor")(doctor.doctor)
app.command("selftest")(selftest.selftest)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"robustsuite {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""
