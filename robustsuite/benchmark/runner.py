"""Run a suite into a folder: plan, resume, play, write; whole records survive whatever happens."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from robustsuite.benchmark import records as record_files
from robustsuite.benchmark.engine import engine
from robustsuite.benchmark.environment import resolve_device
from robustsuite.benchmark.plan import Plan, plan
from robustsuite.benchmark.records import Record
from robustsuite.benchmark.suite import Suite
from robustsuite.benchmark.worker import Worker, reordered
from robustsuite.data.catalogue import load
from robustsuite.errors import RequestError
from robustsuite.files import write_atomically

Progress = Callable[[str, int, int], None]
"""Told what goes on, how many cells are done, and how many there are."""


@dataclass(frozen=True)
class Outcome:
    """What a run left.

    Args:
        records: Every record of the plan, in plan order.
        folder: Where they stand.
        ran: Cells played now.
        reused: Cells that an earlier run had finished.
    """

    records: tuple[Record, ...]
    folder: Path
    ran: int
    reused: int

    @property
    def errors(self) -> int:
        """How many cells raised."""
        return sum(record.status == "error" for record in self.records)


def run(
    suite: Suite,
    folder: Path,
    *,
    workers: int = 1,
    device: str = "auto",
    fresh: bool = False,
    progress: Progress | None = None,
    announce: Callable[[Plan], None] | None = None,
) -> Outcome:
    """Run every cell that has no record yet.

    Args:
        suite: A validated suite.
        folder: Where records, models and samples go.
        workers: Processes; 1 works in this one.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        fresh: Whether to forget what the folder holds.
        progress: Told as cells finish.
        announce: Shown the plan before any work starts.

    Raises:
        RequestError: The request cannot run; nothing was started.
    """
    where = resolve_device(device)
    splits = load(suite.dataset, seed=suite.seed)
    layout = plan(suite, where, splits)
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()  # workers have to agree on it
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RequestError(
            f"expected a folder that no other run uses, got out={str(folder)!r}; wait for that run, or choose another "
            f"--out"
        ) from None
    with lock:
        if fresh:
            _clear(folder)
        write_atomically(folder / "suite.yaml", suite.to_yaml().encode())
        known = _resume(folder, layout)
        if announce is not None:
            announce(layout)
        worker = Worker(suite, folder, where, splits)
        return _play(worker, layout, known, workers, progress)


def _play(worker: Worker, layout: Plan, known: dict[str, Record], workers: int, progress: Progress | None) -> Outcome:
    total, reused = len(layout.cells), len(known)
    done = reused

    def note(what: str) -> None:
        if progress is not None:
            progress(what, done, total)

    note("reusing finished cells" if reused else "starting")
    left = [cell for cell in layout.cells if cell.key not in known]
    for record in engine(worker, layout, left, workers, note):
        record_files.append(worker.folder / "records.jsonl", record)
        known[record.key] = record
        done += 1
        note(f"finished {record.defense} x {record.attack}: {record.status}")
    ordered = tuple(sorted(known.values(), key=lambda record: record.order))
    return Outcome(ordered, worker.folder, len(left), reused)


def _resume(folder: Path, layout: Plan) -> dict[str, Record]:
    """Finished records of this plan; what belongs to no cell of it is set aside, not lost."""
    path = folder / "records.jsonl"
    found = {record.key: record for record in record_files.read(path)}
    finished = record_files.keys(found.values())
    cells = {cell.key: cell for cell in layout.cells}
    kept = {
        key: reordered(record, cells[key], layout.suite)
        for key, record in found.items()
        if key in cells and key in finished and _whole(folder, record)
    }
    for key in found.keys() - kept.keys():
        if found[key].status != "error":
            record_files.append(folder / "records.old.jsonl", found[key])
    if path.is_file():
        lines = [record.line() for record in sorted(kept.values(), key=lambda record: record.order)]
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
    return kept


def _whole(folder: Path, record: Record) -> bool:
    """Whether the record's per-sample file is there as described."""
    try:
        record_files.load_samples(folder, record)
    except RequestError:
        return False
    return True


def _clear(folder: Path) -> None:
    for name in ("records.jsonl", "records.old.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for name in ("models", "samples"):
        shutil.rmtree(folder / name, ignore_errors=True)
