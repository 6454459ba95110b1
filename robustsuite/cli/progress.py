"""Progress of a run: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
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
    """A line at most every few seconds, the latest that there is, and one at the end.

    A line that comes too early waits: what runs for long would stay unnamed if it were dropped.
    """

    def __init__(self, stream: TextIO, every: float = _EVERY) -> None:
        self._stream, self._every = stream, every
        self._last, self._held = float("-inf"), ""
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Write a line where the last one is long ago, else when it is."""
        with self._lock:
            self._held = f"[{done}/{total}] {what}"
            early = self._last + self._every - time.monotonic()
            if done == total or early <= 0:
                self._write()
            elif self._timer is None:
                self._timer = threading.Timer(early, self._release)
                self._timer.daemon = True
                self._timer.start()

    def _release(self) -> None:
        with self._lock:
            self._timer = None
            self._write()

    def _write(self) -> None:
        if self._held:
            print(self._held, file=self._stream, flush=True)
            self._last, self._held = time.monotonic(), ""

    def close(self) -> None:
        """Let go of a line that waits."""
        with self._lock:
            self._held = ""
            if self._timer is not None:
                self._timer.cancel()

    def announce(self, plan: str) -> None:
        """Write the plan."""
        with self._lock:
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
        lines = _Lines(stream)
        try:
            yield lines
        finally:
            lines.close()
