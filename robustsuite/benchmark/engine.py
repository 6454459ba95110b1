"""The local engines: this process, or several that may hang or die without taking the run with them."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robustsuite import registry
from robustsuite.benchmark.plan import Node
from robustsuite.benchmark.schedule import Engine, LostError
from robustsuite.benchmark.worker import Done, Worker, set_threads

if TYPE_CHECKING:
    from pebble import ProcessFuture

HANGS: Final = ".hangs"
_workers: dict[str, Worker] = {}
_template: Worker | None = None


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
            future.set_result(self._worker.perform(node))
        except KeyboardInterrupt as error:
            future.set_exception(error)
        return future

    def close(self, *, at_once: bool) -> None:  # noqa: ARG002
        """Give torch its threads back."""
        set_threads(self._threads)


class Processes:
    """Worker processes on this machine.

    One that dies or hangs costs only what it was at, and is replaced. With several accelerators each piece of work gets
    one that is free.

    Args:
        worker: What each process is a copy of.
        workers: How many processes.
        timeout: Seconds after which a piece of work counts as hanging; None waits for ever.
    """

    def __init__(self, worker: Worker, workers: int, timeout: float | None = None) -> None:
        from pebble import ProcessPool

        self.slots, self._timeout, self._hangs = workers, timeout, worker.folder / HANGS
        self._free = deque(_devices(worker.device, workers))
        suite = worker.suite
        self._pool = ProcessPool(
            max_workers=workers,
            initializer=_start,
            initargs=(replace(worker, splits=None), tuple(suite.plugins), suite.threads, os.getpid()),
            context=multiprocessing.get_context("spawn"),
        )

    def submit(self, node: Node) -> Future[Done]:
        """Hand it to a worker that is free."""
        device = self._free.popleft()
        inner = self._pool.schedule(_perform, args=(node, device, self._hangs, self._timeout))
        outer: Future[Done] = Future()

        def settle(done: ProcessFuture) -> None:
            self._free.append(device)
            error = done.exception()
            if error is None:
                outer.set_result(done.result())
            else:
                outer.set_exception(self._explain(error, node))

        inner.add_done_callback(settle)
        return outer

    def close(self, *, at_once: bool) -> None:
        """End the workers."""
        if at_once:
            self._pool.stop()
        else:
            self._pool.close()
        self._pool.join()

    def _explain(self, error: BaseException, node: Node) -> BaseException:
        from pebble import ProcessExpired

        if not isinstance(error, ProcessExpired):
            return error
        trace = self._hangs / f"{node.key}.txt"
        if trace.is_file() and trace.stat().st_size:
            hung = f"it hung for {self._timeout:g} seconds and was stopped; this is where:\n{trace.read_text()}"
            return LostError(hung, again=False)
        return LostError(died(error.exitcode))


def died(code: int | None) -> str:
    """Why a process that ended with this code is gone, as far as the code says.

    Example:
        >>> died(-9)
        'the worker was killed (SIGKILL); memory that ran out on this machine is the usual reason'
    """
    if code is None or code >= 0:
        return f"the worker ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; memory that ran out on this machine is the usual reason" if name == "SIGKILL" else ""
    return f"the worker was killed ({name}){hint}"


def local(worker: Worker, workers: int, timeout: float | None = None) -> Engine:
    """The engine for so many workers; one works in this process, unless it may have to be stopped."""
    return Here(worker) if workers == 1 and timeout is None else Processes(worker, workers, timeout)


def _devices(device: str, workers: int) -> Iterator[str]:
    """A device for every worker: accelerators in turn where none was named by its number."""
    import torch

    count = torch.cuda.device_count() if device == "cuda" else 0
    for i in range(workers):
        yield f"cuda:{i % count}" if count > 1 else device


def _start(worker: Worker, plugins: tuple[str, ...], threads: int, parent: int) -> None:
    """Set up one worker process, which ends when its parent has gone."""
    global _template
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver alone decides
    set_threads(threads)
    for plugin in plugins:
        registry.load_file(plugin)
    _template = worker

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _perform(node: Node, device: str, hangs: Path, timeout: float | None) -> Done:
    assert _template is not None
    if device not in _workers:
        _workers[device] = replace(_template, device=device, splits=next((w.splits for w in _workers.values()), None))
    with watched(hangs / f"{node.key}.txt", timeout):
        return _workers[device].perform(node)


@contextmanager
def watched(trace: Path, timeout: float | None) -> Iterator[None]:
    """End this process where the block takes longer, and leave in `trace` what every thread was at.

    The watch runs outside the interpreter, so that even code that never gives the lock back is stopped.
    """
    if timeout is None:
        yield
        return
    trace.parent.mkdir(parents=True, exist_ok=True)
    with trace.open("w") as file:
        faulthandler.dump_traceback_later(timeout, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    trace.unlink()


