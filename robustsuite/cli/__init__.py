"""The command line: one module per command, each importing torch only when it runs."""

from __future__ import annotations

import time


def main() -> None:
    """Entry point of `robustsuite` and of `python -m robustsuite`; commands are told when it was called."""
    started = time.monotonic()
    from robustsuite.cli.app import app
    from robustsuite.core.outputs import guard

    guard()
    app(prog_name="robustsuite", obj=started)
