"""Where words go: results to stdout, everything else to stderr."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console


def results() -> Console:
    """Standard output; as wide as a table needs where it is no terminal."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=200)


def notes() -> Console:
    """Standard error: plan, progress, logs."""
    from rich.console import Console

    return Console(stderr=True)


def tables(*, as_json: bool, quiet: bool) -> Console:
    """Where tables go: standard output, or out of the way of JSON."""
    from rich.console import Console

    if not as_json:
        return results()
    return Console(stderr=True, quiet=quiet, width=None if sys.stderr.isatty() or "COLUMNS" in os.environ else 200)


def say(text: str, *, quiet: bool = False) -> None:
    """A plain line on standard error."""
    if not quiet:
        typer.echo(text, err=True)


def set_up(*, verbose: bool = False) -> None:
    """Choose what the libraries below may say: warnings and logs with `--verbose`, errors otherwise."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if verbose else logging.ERROR)
    logging.captureWarnings(True)
    if not verbose:
        warnings.simplefilter("ignore")


@contextmanager
def contained() -> Iterator[None]:
    """Undo `set_up` at the end, for whoever calls the application from Python."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with warnings.catch_warnings():
        try:
            yield
        finally:
            logging.captureWarnings(False)
            root.handlers[:] = handlers
            root.setLevel(level)


def load_plugins(files: list[str] | None) -> None:
    """Import the plug-in files that the user typed.

    Raises:
        RequestError: A file that is not there or holds no plug-in, with file and line.
    """
    from robustsuite.plugins import registry

    for file in files or ():
        registry.load_file(file)
