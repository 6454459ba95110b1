"""Run a suite into a folder: plan, resume, play, write; whole records survive whatever happens."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from robustsuite.core import checks, process_state
from robustsuite.core.errors import RequestError, StorageError
from robustsuite.core.splits import Splits
from robustsuite.evaluation import record_files
from robustsuite.evaluation.environment import resolve_device
from robustsuite.evaluation.records import Record
from robustsuite.plugins import provenance
from robustsuite.runner.engine import HANGS, broken_off, local, settled
from robustsuite.runner.estimate import Forecast, Timings
from robustsuite.runner.ledger import CELLS, Ledger
from robustsuite.runner.plan import Node, Plan, plan, plural, read_data
from robustsuite.runner.resolver import Cell
from robustsuite.runner.schedule import Engine, Schedule
from robustsuite.runner.sketch import Sketch, is_blind, not_checked
from robustsuite.runner.worker import ARTEFACTS, Worker
from robustsuite.storage.files import storing, write_atomically
from robustsuite.storage.store import Store, cache
from robustsuite.suite.schema import Suite
from robustsuite.training.cache import KIND as MODELS

ENGINES: Final = ("local", "ray")
_OUTLOOK: Final = 2.0  # seconds between two looks at how long it will still take

Progress = Callable[[str, int, int], None]
"""Told what goes on, how many cells are done, and how many there are."""

Tell = Callable[[str], None]
"""Told at once, in a line each, what nobody should miss: what was lost, and what an interruption does."""


@dataclass(frozen=True)
class RunOutcome:
    """What a run left.

    Args:
        records: Every record of the plan, in plan order.
        folder: Where they stand.
        ran: Cells played now.
        reused: Cells that an earlier run in this folder had finished.
        recalled: Cells that another run had finished, from the cache.
        mishaps: What went wrong on the way and was mended or given up, in a line each.
    """

    records: tuple[Record, ...]
    folder: Path
    ran: int
    reused: int
    recalled: int = 0
    mishaps: tuple[str, ...] = ()

    @property
    def errors(self) -> int:
        """How many cells raised."""
        return sum(record.status == "error" for record in self.records)


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    Args:
        plan: The whole plan.
        todo: What would have to be done.
        reused: Cells that the folder has already.
        recalled: Cells that the cache has already.
        forecast: About how long it would take.
    """

    plan: Plan
    todo: tuple[Node, ...]
    reused: int
    recalled: int
    forecast: Forecast

    def describe(self) -> str:
        """A few lines for people."""
        count = Counter(node.kind for node in self.todo)
        trained = count["training"] + count["job"] + count["retraining"]
        parts = [plural(count["cell"], "cell"), plural(trained, "training"), plural(count["artefact"], "artefact")]
        return (
            f"{self.plan.describe()}\n"
            f"  to do: {', '.join(parts)}; {plural(self.reused, 'cell')} in the folder, {self.recalled} in the cache\n"
            f"  time: {self.forecast if self.todo else 'none'}{not_checked(self.plan.suite)}"
        )


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is done; nothing here changes a result but the device.

    Args:
        workers: Processes; 1 works in this one, and None takes a cluster whole.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        fresh: Whether to forget what the folder holds, and to take nothing from the cache.
        cached: Whether results are shared with other runs through the cache.
        timeout: Seconds after which a training or a cell counts as hanging; None waits for ever.
        apart: Whether one worker gets a process of its own where the last run in the folder ended without a word.
        engine: `local`, or `ray` for a cluster.
        address: Where the Ray cluster is; None starts one here.
    """

    workers: int | None = 1
    device: str = "auto"
    fresh: bool = False
    cached: bool = True
    timeout: float | None = None
    apart: bool = False
    engine: str = "local"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            checks.integer("workers", self.workers, low=1)
        checks.one_of("engine", self.engine, ENGINES)
        if self.timeout is not None:
            checks.real("timeout", self.timeout, low=0.0, open_low=True)
        if self.address is not None and self.engine != "ray":
            raise checks.fail("engine='ray' beside an address", "engine", self.engine, "add --engine ray")


def run(
    suite: Suite,
    folder: Path,
    *,
    progress: Progress | None = None,
    announce: Callable[[Plan], None] | None = None,
    tell: Tell | None = None,
    **options: Any,
) -> RunOutcome:
    """Run every cell that has no record yet.

    Args:
        suite: A validated suite.
        folder: Where records, models and samples go.
        progress: Told as cells finish.
        announce: Shown the plan before any work starts.
        tell: Told of losses and interruptions as they happen; `progress` where it is not given.
        **options: As in `Options`.

    Raises:
        RequestError: The request cannot run; nothing was started.
        StorageError: The disk refuses results; what was finished before stands, and the message says how much.
        KeyboardInterrupt: Ctrl-C; what was finished stands.
    """
    asked = Options(**options)
    with suite.trusted():
        return _run(suite, folder.resolve(), asked, progress, announce, tell)  # workers have to agree on the folder


def _run(
    suite: Suite,
    folder: Path,
    asked: Options,
    progress: Progress | None,
    announce: Callable[[Plan], None] | None,
    tell: Tell | None,
) -> RunOutcome:
    layout, splits = _plan(suite, asked)
    with _taken(folder), _counted(folder / "records.jsonl", layout):
        if asked.fresh:
            _clear(folder)
        write_atomically(folder / "suite.yaml", layout.suite.to_yaml().encode())
        if announce is not None:
            announce(layout)
        shared, loaded = _cache(folder, asked, layout), provenance.foreign(*layout.parts())
        worker = Worker(layout.resolver, folder, layout.device, shared, splits, foreign=loaded)
        outcome = PlanRun(layout, worker, progress, tell).play(partial(_engine, worker, asked))
        settled(folder)
        return outcome


@contextmanager
def _taken(folder: Path) -> Iterator[None]:
    """Hold the folder for this run.

    Raises:
        RequestError: Another run holds it, or it cannot be written.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RequestError(
            f"expected a folder that no other run uses, got out={str(folder)!r}; wait for that run, or choose another "
            f"--out"
        ) from None
    except OSError as error:
        remedy = f"{error.strerror or error}: choose another --out"
        raise checks.fail("a folder that can be written", "out", str(folder), remedy) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _counted(records: Path, layout: Plan) -> Iterator[None]:
    """Where the disk refuses what is written in this block, say how many cells are safe."""
    try:
        yield
    except StorageError as error:
        safe = record_files.keys(record_files.read(records)) & {cell.key for cell in layout.cells}
        told = f"{len(safe)} of {plural(len(layout.cells), 'cell')} are safe"
        raise StorageError(f"{error}, and give the same command again: {told}") from error


def preview(suite: Suite, folder: Path, **options: Any) -> Preview | Sketch:
    """What `run` would do, and about how long it would take; writes nothing into the folder.

    Of a suite whose data or network are made by code that a dry run leaves out, only the grid is known.

    Args:
        suite: A validated suite.
        folder: Where the run would go.
        **options: As in `Options`.
    """
    asked = Options(**options)
    if is_blind(suite):
        return Sketch(suite)
    with suite.trusted():
        layout, _ = _plan(suite, asked)
    found = [] if asked.fresh else record_files.read(folder / "records.jsonl")
    finished = record_files.keys(found) & {cell.key for cell in layout.cells}
    shared = _cache(folder, asked, layout)
    stores = (shared,) if asked.fresh else (Store(folder), shared)
    known = {cell.content for cell in layout.cells if cell.shared and shared.has(CELLS, cell.content)}
    left = [cell for cell in layout.cells if cell.key not in finished]
    todo = outstanding(layout.within(cell for cell in left if cell.content not in known), stores)
    forecast = Timings(layout, shared.root).forecast(todo, asked.workers or 1)
    return Preview(layout, tuple(todo), len(finished), sum(cell.content in known for cell in left), forecast)


def _plan(suite: Suite, asked: Options) -> tuple[Plan, Splits]:
    # Whether nodes have GPUs is for the cluster to say; the driver needs none.
    elsewhere = asked.engine == "ray" and asked.device.partition(":")[0] == "cuda"
    where = "cuda" if elsewhere else resolve_device(asked.device)
    splits = read_data(suite)
    return plan(suite, where, splits), splits


def outstanding(nodes: Iterable[Node], stores: Sequence[Store]) -> list[Node]:
    """Those of these nodes that have to be done: cells, and what no store has."""

    def kept(node: Node) -> bool:
        kind = {"training": MODELS, "job": MODELS, "artefact": ARTEFACTS}.get(node.kind)
        return kind is not None and any(store.has(kind, node.key) for store in stores)

    return [node for node in nodes if not kept(node)]


def _cache(folder: Path, asked: Options, layout: Plan) -> Store:
    shared = cache() if asked.cached else Store(folder / ".cache")
    shared = replace(shared, beside=provenance.foreign_digest(*layout.parts()))
    return replace(shared, since=time.time()) if asked.fresh else shared


def _engine(worker: Worker, asked: Options) -> Engine:
    if asked.engine == "ray":
        from robustsuite.runner.ray_engine import Cluster

        return Cluster(worker, asked.address, asked.workers, asked.timeout)
    return local(worker, asked.workers or 1, asked.timeout, apart=asked.apart and bool(broken_off(worker.folder)))


class PlanRun:
    """One run of a plan: its records so far, and what goes on.

    Args:
        layout: What to play; what the folder holds already is taken from there.
        worker: Does it, in its folder.
        progress: Told as cells finish.
        tell: Told of losses and interruptions as they happen; `progress` where it is not given.
    """

    def __init__(
        self, layout: Plan, worker: Worker, progress: Progress | None = None, tell: Tell | None = None
    ) -> None:
        self._plan, self._worker, self._progress = layout, worker, progress
        self._tell = tell if tell is not None else self._note
        self._mishaps: list[str] = []
        self._timings = Timings(layout, worker.cache.root)
        self._slots, self._waiting = 1, dict[str, Node]()
        self._looked, self._told = float("-inf"), ""
        self._ledger = Ledger(layout, worker, self._mishap, self._remark)
        self._remark(process_state.told())
        at = broken_off(worker.folder)
        if at:
            self._mishap(f"the last run in this folder ended without a word, at: {at}")
        self._reused, self._again = self._ledger.resume(), self._ledger.lost()
        self._recalled = self._ledger.recall()

    def play(self, engine: Callable[[], Engine]) -> RunOutcome:
        """Play what is left, and keep each record as soon as it is there."""
        left, folder = self._ledger.left(), self._worker.folder
        stores = (Store(folder), self._worker.cache)
        nodes = self._plan.within(left)
        if self._again:  # which training made what is lost is for the trainers to say: all others are recalled
            needed, whole = {node.key for node in nodes}, self._plan.within(self._plan.cells)
            nodes = tuple(node for node in whole if node.kind != "cell" or node.key in needed)
        self._waiting = {node.key: node for node in outstanding(nodes, stores)}
        self._note("starting" if len(left) == len(self._plan.cells) else "going on with what is left")
        if nodes:
            self._drive(engine(), nodes, left)
        self._worker.cache.trim()
        self._remark(self._worker.cache.told())
        ordered, mishaps = self._ledger.ordered(), tuple(self._mishaps)
        return RunOutcome(ordered, folder, len(left), self._reused, self._recalled, mishaps)

    def _drive(self, engine: Engine, nodes: Sequence[Node], left: list[Cell]) -> None:
        same: dict[str, list[Cell]] = {}
        for cell in left:
            same.setdefault(cell.content, []).append(cell)
        at_once = True
        self._slots = engine.slots
        try:
            for node, done in Schedule(nodes, engine, self._note, self._mishap, self._tell).run():
                self._remark(done.notes)
                if done.refused:
                    raise StorageError(done.refused)
                if self._waiting.pop(node.key, None) is not None and not done.failure:
                    self._timings.observe(node, done.seconds)
                for cell in same[node.key] if node.kind == "cell" else ():
                    record = self._ledger.take(cell, node.cell, done)
                    self._note(f"finished {record.defense} x {record.attack}: {record.status}")
            at_once = False
        finally:
            engine.close(at_once=at_once)
            self._timings.save()

    def _note(self, what: str) -> None:
        if self._progress is None:
            return
        self._progress(what + self._outlook(), len(self._ledger), len(self._plan.cells))

    def _outlook(self) -> str:
        """About how long it will still take, looked at once in a while."""
        now = time.monotonic()
        if self._waiting and now - self._looked > _OUTLOOK:
            left = self._timings.forecast(list(self._waiting.values()), self._slots)
            self._looked, self._told = now, f" · {left} left" if left.known else ""
        return self._told if self._waiting else ""

    def _remark(self, notes: Iterable[str]) -> None:
        """Name what went wrong beside the work, each once: a cache that refuses one entry refuses the next."""
        for note in notes:
            if note not in self._mishaps:
                self._mishap(note)

    def _mishap(self, what: str) -> None:
        """Name a loss: to whoever looks on, in the outcome, and in the run's log."""
        self._mishaps.append(what)
        self._tell(what)
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        with contextlib.suppress(OSError), (self._worker.folder / "run.log").open("a", encoding="utf-8") as log:
            log.write(f"{stamp} {what}\n")


def _clear(folder: Path) -> None:
    for name in ("records.jsonl", "records.old.jsonl", "run.log"):
        with storing(folder / name):
            (folder / name).unlink(missing_ok=True)
    for name in ("models", "samples", ".cache", HANGS):
        shutil.rmtree(folder / name, ignore_errors=True)
