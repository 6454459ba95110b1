"""The command line: one module per command, each importing torch only when it runs."""

from __future__ import annotations


def main() -> None:
    """Entry point of `robustsuite` and of `python -m robustsuite`."""
    from robustsuite.cli.app import app
    from robustsuite.core.outputs import guard

    guard()
    app(prog_name="robustsuite")
