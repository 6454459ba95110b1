"""How a process that hangs is ended, and what is said of one that is gone."""

from __future__ import annotations

import faulthandler
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

HANGS: Final = ".hangs"


@contextmanager
def watched(trace: Path, timeout: float | None) -> Iterator[None]:
    """End this process where the block takes longer, and leave in `trace` what every thread was at.

    The watch runs outside the interpreter, so that even code that never gives the lock back is stopped.

    Args:
        trace: Where to tell; absent again where the block ends in time.
        timeout: Seconds; None waits for ever.
    """
    if timeout is None:
        yield
        return
    with _opened(trace) as file:
        faulthandler.dump_traceback_later(timeout, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    trace.unlink(missing_ok=True)


@contextmanager
def _opened(trace: Path) -> Iterator[IO[str]]:
    """The file to tell in; standard error where the disk refuses one, as what hangs must be stopped all the same."""
    import sys

    file = None
    with suppress(OSError):
        trace.parent.mkdir(parents=True, exist_ok=True)
        file = trace.open("w")
    if file is None:
        yield sys.stderr
        return
    with file:
        yield file


def traced(trace: Path) -> str:
    """What `watched` left there, empty where nothing hung; it is told once."""
    try:
        text = trace.read_text(errors="replace").strip()
        trace.unlink()
    except OSError:
        return ""
    return text


def hung(timeout: float, trace: str) -> str:
    r"""That something hung, and where, in one line.

    Args:
        timeout: Seconds that it was given.
        trace: What `watched` left; the main thread stands last in it.

    Example:
        >>> hung(5, 'Thread 0x1 (most recent call first):\n  File "mine.py", line 3 in __call__')
        'it hung for 5 seconds in mine.py, line 3 in __call__, and was stopped'
    """
    found = re.search(r'File "(.+)", (line \d+ in .+)', trace.rpartition("Thread 0x")[2])
    where = f" in {found[1]}, {found[2]}," if found is not None else ""
    return f"it hung for {timeout:g} seconds{where} and was stopped"


def died(code: int | None) -> str:
    """Why a process that ended with this code is gone, as far as the code says.

    Example:
        >>> died(-9)
        'the worker was killed (SIGKILL); memory that ran out on this machine is the usual reason'
        >>> died(0)
        'the worker ended with exit code 0 and without an answer: what ran in it ended the process'
    """
    if code is None:
        return "the worker broke off the connection"
    if code >= 0:
        return f"the worker ended with exit code {code} and without an answer: what ran in it ended the process"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; memory that ran out on this machine is the usual reason" if name == "SIGKILL" else ""
    return f"the worker was killed ({name}){hint}"
