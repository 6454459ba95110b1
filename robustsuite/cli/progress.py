"""Progress of a run: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol, TextIO

_EVERY: Final = 10.0  # seconds between lines where there is no terminal


class Progress(Protocol):
    """Told what goes on, how many cells are done, and how many there are; shown the plan first."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show a step."""

    def announce(self, plan: str) -> None:
        """Show the plan."""


class _Silent:
    """Says nothing."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Pass over a step."""

    def announce(self, plan: str) -> None:
        """Pass over the plan."""


class _Lines:
    """A line at most every few seconds, and one at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._last = stream, float("-inf")

    def __call__(self, what: str, done: int, total: int) -> None:
        """Write a line where the last one is long ago."""
        now = time.monotonic()
        if done == total or now - self._last >= _EVERY:
            self._last = now
            print(f"[{done}/{total}] {what}", file=self._stream, flush=True)

    def announce(self, plan: str) -> None:
        """Write the plan."""
        print(plan, file=self._stream, flush=True)


class _Bar:
    """A bar of finished cells, the time so far, and what goes on."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        self.bar = RichProgress(*columns, console=Console(file=stream), transient=True)
        self._task = self.bar.add_task("", total=None)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Move the bar."""
        self.bar.update(self._task, completed=done, total=total, description=what)

    def announce(self, plan: str) -> None:
        """Print the plan above the bar."""
        self.bar.console.print(plan, markup=False, highlight=False)


@contextmanager
def progress_on(stream: TextIO, *, quiet: bool = False) -> Iterator[Progress]:
    """Progress that suits `stream`."""
    if quiet:
        yield _Silent()
    elif stream.isatty():
        shown = _Bar(stream)
        with shown.bar:
            yield shown
    else:
        yield _Lines(stream)
