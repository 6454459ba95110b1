"""The local engine: trainings first, each cell as soon as its victim is there, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

from robustsuite import registry
from robustsuite.benchmark.plan import Cell, Plan
from robustsuite.benchmark.records import Record
from robustsuite.benchmark.worker import Worker, set_threads

Note = Callable[[str], None]
"""Told in one line what was finished."""

_worker: Worker | None = None


def _start(worker: Worker, plugins: tuple[str, ...], threads: int, parent: int) -> None:
    """Set up one worker process, which ends when its parent has gone."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver alone decides
    set_threads(threads)
    for plugin in plugins:
        registry.load_file(plugin)
    _worker = worker

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train(cell: Cell) -> None:
    assert _worker is not None
    _worker.train(cell)


def _play(cell: Cell) -> Record:
    assert _worker is not None
    return _worker.play(cell)


def _label(cell: Cell) -> str:
    return f"{cell.defense.label} x {cell.attack.label}" + (f" #{cell.repeat}" if cell.repeat else "")


def here(worker: Worker, cells: list[Cell], threads: int, note: Note) -> Iterator[Record]:
    """Play every cell in this process, in plan order."""
    import torch

    before = torch.get_num_threads()
    set_threads(threads)
    try:
        for cell in cells:
            note(f"playing {_label(cell)}")
            yield worker.play(cell)
    finally:
        set_threads(before)


class Pool:
    """Several worker processes and what each of them is at.

    A cell waits for its victim's training. Cells that would do the same poisoned training wait for one another, so that
    the second finds it done.
    """

    def __init__(self, worker: Worker, plan: Plan, workers: int, note: Note) -> None:
        self._worker, self._plan, self._workers, self._note = replace(worker, splits=None), plan, workers, note

    def play(self, cells: list[Cell]) -> Iterator[Record]:
        """Yield records as they come; a worker that dies is replaced once, then its cell is an error."""
        left = {cell.key: cell for cell in cells}
        for attempt in range(3):
            try:
                for record in self._round(list(left.values())):
                    left.pop(record.key, None)
                    yield record
                return
            except BrokenProcessPool:
                self._note(f"a worker process died; starting again with {len(left)} cells left (attempt {attempt + 2})")
        raise BrokenProcessPool("worker processes died three times; look for memory limits, then run the same command")

    def _round(self, cells: list[Cell]) -> Iterator[Record]:
        suite = self._plan.suite
        arguments = (self._worker, tuple(suite.plugins), suite.threads, os.getpid())
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self._workers, context, _start, arguments) as pool:
            try:
                yield from _Schedule(pool, cells, self._note, self._workers).run()
            except BaseException:
                processes = list((pool._processes or {}).values())  # no public way to stop a task before Python 3.14
                pool.shutdown(wait=False, cancel_futures=True)
                for process in processes:
                    process.terminate()
                raise


class _Schedule:
    """Which task goes next."""

    def __init__(self, pool: ProcessPoolExecutor, cells: list[Cell], note: Note, workers: int) -> None:
        self._pool, self._note, self._workers = pool, note, workers
        self._waiting = list(cells)
        needed = {(c.training, c.repeat): c for c in reversed(cells) if c.training}
        self._trainings = list(reversed(needed.values()))
        self._trained: set[tuple[str, int]] = set()
        self._running: dict[Future[Any], tuple[Cell, bool]] = {}

    def run(self) -> Iterator[Record]:
        """Submit what is ready, yield what is done, until nothing is left."""
        while self._waiting or self._running:
            while len(self._running) < self._workers and self._submit():
                pass
            done, _ = wait(self._running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda f: f.exception() is not None):  # results before a broken pool
                cell, training = self._running.pop(future)
                if training:
                    # A training that raises is met again by its cells, which record the error.
                    self._trained.add((cell.training, cell.repeat))
                    if isinstance(future.exception(), BrokenProcessPool):
                        future.result()
                    continue
                yield future.result()

    def _submit(self) -> bool:
        if self._trainings:
            cell = self._trainings.pop(0)
            self._note(f"training {cell.defense.label}" + (f" #{cell.repeat}" if cell.repeat else ""))
            self._running[self._pool.submit(_train, cell)] = (cell, True)
            return True
        busy = {self._group(cell) for cell, _ in self._running.values()}
        for cell in self._waiting:
            trained = not cell.training or (cell.training, cell.repeat) in self._trained
            if trained and self._group(cell) not in busy:
                self._waiting.remove(cell)
                self._note(f"playing {_label(cell)}")
                self._running[self._pool.submit(_play, cell)] = (cell, False)
                return True
        return False

    @staticmethod
    def _group(cell: Cell) -> tuple[str, ...]:
        """Cells of one group may share a training that does not exist yet."""
        if cell.attack.entry.scenario in ("utility", "evasion"):
            return (cell.key,)
        return (cell.attack.label, cell.training, str(cell.repeat))


def engine(worker: Worker, plan: Plan, cells: list[Cell], workers: int, note: Note) -> Iterator[Record]:
    """Records of these cells as they come, from this process or from `workers` of them."""
    if workers == 1 or len(cells) < 2:
        return here(worker, cells, plan.suite.threads, note)
    return Pool(worker, plan, workers, note).play(cells)
