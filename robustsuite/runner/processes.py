"""Worker processes on this machine that may hang or die without taking the run with them."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import connection, resource_tracker
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core import outputs
from robustsuite.core.errors import RobustsuiteError
from robustsuite.core.processor import threads_of_children
from robustsuite.plugins import registry
from robustsuite.runner.callers import Belongings, belongings, main_hidden
from robustsuite.runner.plan import Node
from robustsuite.runner.schedule import LostError
from robustsuite.runner.watching import HANGS, died, hung, traced, watched
from robustsuite.runner.worker import Done, Worker, set_threads

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

_LOOK: Final = 1.0  # seconds between two looks at whether a worker still lives
_GRACE: Final = 10.0  # seconds that a process gets to end by itself
_PR_SET_PDEATHSIG: Final = 1
_SAFE_PATH: Final = "PYTHONSAFEPATH"
_OURS: Final = "robustsuite"  # any text does; by this one a worker knows that its own children need no such care


class Processes:
    """Worker processes, each with a pipe of its own.

    One that dies or hangs costs only what it was at, and is replaced. With several accelerators each has its own.

    Args:
        worker: What each process is a copy of.
        workers: How many processes.
        timeout: Seconds after which a piece of work counts as hanging; None waits for ever.
    """

    def __init__(self, worker: Worker, workers: int, timeout: float | None = None) -> None:
        template = replace(worker, splits=None, progress=None)
        devices, beside = _devices(worker.device, workers), belongings(worker.suite)
        self.slots = workers
        self._all = [_Slot(replace(template, device=device), timeout, beside) for device in devices]
        self._free = deque(self._all)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="robustsuite-worker")

    def submit(self, node: Node) -> Future[Done]:
        """Hand it to a worker that is free."""
        slot = self._free.popleft()
        slot.ready()
        return self._threads.submit(self._ask, slot, node)

    def _ask(self, slot: _Slot, node: Node) -> Done:
        try:
            return slot.ask(node)
        finally:
            self._free.append(slot)

    def close(self, *, at_once: bool) -> None:
        """End the workers."""
        for slot in self._all:
            slot.dismiss(at_once=at_once)
        self._threads.shutdown()
        for slot in self._all:
            slot.end()


class _Slot:
    """One worker process at a time, and the pipe to it.

    Args:
        worker: What the process is a copy of.
        timeout: Seconds after which a piece of work counts as hanging.
        beside: What it needs of the program that runs the suite.
    """

    def __init__(self, worker: Worker, timeout: float | None, beside: Belongings) -> None:
        self._worker, self._timeout, self._beside = worker, timeout, beside
        self._process: SpawnProcess | None = None
        self._pipe: Connection[Any, Any] | None = None

    def ready(self) -> None:
        """Start a process where there is none.

        Called by the thread that drives the run: some kernels end a worker together with the thread that started it.

        Raises:
            RobustsuiteError: The system has no room for one.
        """
        if self._process is not None and self._pipe is not None and not self._pipe.closed and self._process.is_alive():
            return
        self.end()
        context = multiprocessing.get_context("spawn")
        try:
            self._pipe, theirs = context.Pipe()
            given = (theirs, self._worker, self._timeout, os.getpid(), self._beside)
            with theirs, _safe_path(), _uninterrupted(), main_hidden(), threads_of_children(self._worker.suite.threads):
                process = context.Process(target=serve, args=given, name="robustsuite-worker")
                process.start()
        except OSError as error:
            raise RobustsuiteError(
                f"expected room for one more worker process, got {error.strerror or error}; choose fewer "
                f"--workers, and give the same command again"
            ) from error
        self._process = process

    def ask(self, node: Node) -> Done:
        """Hand over a piece of work, and wait for what it gives.

        Raises:
            LostError: The process is gone.
        """
        assert self._pipe is not None
        assert self._process is not None
        try:
            self._pipe.send(node)
            answer = self._answer(self._pipe, self._process)
        except (EOFError, OSError):
            answer = None
        except Exception as error:  # an answer that is none: nothing that comes after it could be trusted
            self._lost(node, self._process)
            reason = f"the worker's answer could not be read ({type(error).__name__}: {error})"
            raise LostError(reason, again=False) from error
        if answer is None:
            raise self._lost(node, self._process)
        if answer.spoilt:  # no other work may rest on what this process has become
            self._process.kill()
            self.end()
        return answer

    def _answer(self, pipe: Connection[Any, Any], process: SpawnProcess) -> Done | None:
        """What the process answers; None where it ends, or is still silent long after it should have ended itself."""
        deadline = float("inf")
        while time.monotonic() < deadline:
            # The pipe may be kept open by what the worker has started, so the process is looked at too.
            connection.wait([pipe, process.sentinel], _LOOK)
            if pipe.poll():
                told = pipe.recv()
                if isinstance(told, Done):
                    return told
                deadline = time.monotonic() + self._timeout + _GRACE if self._timeout is not None else deadline
            elif process.exitcode is not None and not pipe.poll():
                return None
        return None

    def _lost(self, node: Node, process: SpawnProcess) -> LostError:
        process.join(_LOOK)
        silent = process.exitcode is None
        process.kill()
        process.join(_GRACE)
        if self._pipe is not None:
            self._pipe.close()
        trace = traced(self._worker.folder / HANGS / f"{node.key}.txt")
        if self._timeout is not None and (silent or trace):
            return LostError(hung(self._timeout, trace), trace=trace, again=False)
        return LostError(died(None if silent else process.exitcode))

    def dismiss(self, *, at_once: bool) -> None:
        """Tell the process that there is nothing more to do, or kill it."""
        if self._process is not None and at_once:
            self._process.kill()
        elif self._pipe is not None:
            self._pipe.close()

    def end(self) -> None:
        """Wait until the process is gone."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.join(_GRACE)
            if self._process.exitcode is None:
                self._process.kill()
                self._process.join(_GRACE)  # what waits for a device that is gone cannot even be killed
        self._process = self._pipe = None


def _devices(device: str, workers: int) -> Iterator[str]:
    """A device for every worker: accelerators in turn where none was named by its number."""
    import torch

    count = torch.cuda.device_count() if device == "cuda" else 0
    for i in range(workers):
        yield f"cuda:{i % count}" if count > 1 else device


@contextmanager
def _safe_path() -> Iterator[None]:
    """What is started in this block takes no file of the working folder, such as a `queue.py`, for one of Python's."""
    if _SAFE_PATH in os.environ:
        yield
        return
    os.environ[_SAFE_PATH] = _OURS
    try:
        yield
    finally:
        os.environ.pop(_SAFE_PATH, None)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """What is started in this block hears no Ctrl-C, not even before it can say so."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else it starts in here, and lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(pipe: Connection[Any, Any], worker: Worker, timeout: float | None, parent: int, beside: Belongings) -> None:
    """What a worker process does: take work, give answers, and end with its parent.

    Args:
        pipe: Nodes come in, and for each a sign that it was begun and what it gave go out.
        worker: Does the work.
        timeout: As in `Processes`.
        parent: Process id of who started this one.
        beside: What it needs of the program that runs the suite.
    """
    if os.environ.get(_SAFE_PATH) == _OURS:
        del os.environ[_SAFE_PATH]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver alone decides
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _end_with(parent)
    outputs.guard()  # a plug-in that prints must not fail because nobody reads along
    try:
        set_threads(worker.suite.threads)
        for plugin in worker.suite.plugins:
            registry.load_file(plugin)
        beside.unpack()
        with worker.suite.trusted():
            _ = worker.data  # however long it takes to load, no piece of work hangs meanwhile
        broken = ""
    except BaseException:  # a stranger's file may raise anything
        broken = traceback.format_exc()
    while True:
        try:
            node = pipe.recv()
        except EOFError:
            return
        pipe.send(None)
        with worker.suite.trusted():
            done = Done(failure=broken) if broken else _performed(worker, node, timeout)
        try:
            pipe.send(done)
        except (TypeError, AttributeError, ValueError):
            pipe.send(Done(failure=traceback.format_exc()))


def _performed(worker: Worker, node: Node, timeout: float | None) -> Done:
    try:
        with watched(worker.folder / HANGS / f"{node.key}.txt", timeout):
            return worker.perform(node)
    except BaseException:  # even a Ctrl-C, which nobody can have pressed here
        return Done(failure=traceback.format_exc())


def _end_with(parent: int) -> None:
    """End this process when its parent is gone."""
    if sys.platform == "linux":
        # The kernel ends even what holds the interpreter's lock.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
