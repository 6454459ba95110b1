"""The local engines: this process, or several that may hang or die without taking the run with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from robustsuite.runner.plan import Node
from robustsuite.runner.processes import Processes
from robustsuite.runner.schedule import Engine
from robustsuite.runner.watching import HANGS, died, watched
from robustsuite.runner.worker import Done, Worker, set_threads

__all__ = ["HANGS", "Here", "Processes", "broken_off", "died", "local", "settled", "watched"]

_AT: Final = ".at"


class Here:
    """Everything in this process, one piece of work after the other."""

    slots = 1

    def __init__(self, worker: Worker) -> None:
        import torch

        self._worker, self._threads = worker, torch.get_num_threads()
        set_threads(worker.suite.threads)

    def submit(self, node: Node) -> Future[Done]:
        """Do it now."""
        future: Future[Done] = Future()
        try:
            with _marked(self._worker.folder / _AT, node.label):
                done = self._worker.perform(node).unless_spoilt()
            future.set_result(done)
        except KeyboardInterrupt as error:
            future.set_exception(error)
        return future

    def close(self, *, at_once: bool) -> None:  # noqa: ARG002
        """Give torch its threads back."""
        set_threads(self._threads)


@contextmanager
def _marked(mark: Path, label: str) -> Iterator[None]:
    """Leave a mark for the next run where this process does not live to see the end of the block."""
    with contextlib.suppress(OSError):
        mark.write_text(label, encoding="utf-8")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            mark.unlink()


def broken_off(folder: Path) -> str:
    """What the last run in this folder was at when its only process ended without a word; empty where it did not."""
    try:
        return (folder / _AT).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def settled(folder: Path) -> None:
    """Forget that a run broke off, as one has come to its end since."""
    with contextlib.suppress(OSError):
        (folder / _AT).unlink(missing_ok=True)


def local(worker: Worker, workers: int, timeout: float | None = None, *, apart: bool = False) -> Engine:
    """The engine for so many workers; one works in this process, unless it may have to be stopped.

    Args:
        worker: Does the work.
        workers: How many.
        timeout: Seconds after which a piece of work counts as hanging; None waits for ever.
        apart: Whether one worker gets a process of its own too.
    """
    return Here(worker) if workers == 1 and timeout is None and not apart else Processes(worker, workers, timeout)
