"""The records of one run: what its folder holds, what the cache gives, and what is played."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from robustsuite.core.canonical import canonical_json
from robustsuite.core.errors import RequestError
from robustsuite.core.suspicions import Suspicion
from robustsuite.evaluation import record_files
from robustsuite.evaluation.records import FINISHED, Record
from robustsuite.runner.plan import Plan
from robustsuite.runner.resolver import Cell
from robustsuite.runner.schedule import Note
from robustsuite.runner.worker import Done, Worker, placed
from robustsuite.storage.files import anchor, write_atomically
from robustsuite.storage.store import Store
from robustsuite.training.cache import KIND as MODELS

CELLS: Final = "cells"


class Ledger:
    """Every record of a plan that there is so far; each is on disk as soon as it is here.

    Args:
        layout: The plan.
        worker: Has the folder and the cache.
        mishap: Told what was lost.
        remark: Told what the cache says of itself.
    """

    def __init__(self, layout: Plan, worker: Worker, mishap: Note, remark: Callable[[Iterable[str]], None]) -> None:
        self._plan, self._worker, self._mishap, self._remark = layout, worker, mishap, remark
        self._folder, self._path = worker.folder, worker.folder / "records.jsonl"
        self._records: dict[str, Record] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._records)

    def ordered(self) -> tuple[Record, ...]:
        """All of them, in plan order."""
        return tuple(sorted(self._records.values(), key=lambda record: record.order))

    def left(self) -> list[Cell]:
        """Cells that have none."""
        return [cell for cell in self._plan.cells if cell.key not in self._records]

    def resume(self) -> int:
        """Take in what the folder holds; what belongs to no cell of the plan is set aside, not lost.

        What is not as it was written is named, and its cell is among those that are left. A suite beside it that was
        changed since is no damage here: the run has just written its own.
        """
        held = record_files.inspect(self._path)
        found = {record.key: record for record in held.records}
        for fault in (*held.damaged, *held.moved):
            self._mishap(f"{fault}; what has no whole line is played again")
        finished = record_files.keys(found.values())
        cells = {cell.key: cell for cell in self._plan.cells}
        kept = {
            key: placed(record, cells[key], self._plan.suite)
            for key, record in found.items()
            if key in cells and key in finished and self._whole(record)
        }
        for key in found.keys() - kept.keys():
            if found[key].status != "error":
                record_files.append(self._folder / "records.old.jsonl", found[key])
        if self._path.is_file():
            record_files.write(self._path, sorted(kept.values(), key=lambda record: record.order))
            anchor(self._folder)  # what is appended from now on must not go to a file that is forgotten
        self._records = kept
        return len(kept)

    def lost(self) -> bool:
        """Whether weights that the folder kept are not what was written; they are removed and named."""
        own = Store(self._folder)
        damaged = own.verify(MODELS)
        self._remark(own.told())
        return bool(damaged)

    def recall(self) -> int:
        """Take from the cache what other runs have finished."""
        recalled = 0
        for cell in self.left():
            kept = None if not cell.shared else self._worker.cache.get(CELLS, cell.content)
            if kept is None:
                continue
            record = self._placed(Record.parse(canonical_json(kept.facts)), cell, kept.payload)
            self._write(record)
            recalled += 1
        self._remark(self._worker.cache.told())
        return recalled

    def take(self, cell: Cell, played: Cell, done: Done) -> Record:
        """Keep the record of a cell; one that shares its content with the one that was played gets a copy."""
        record = done.record
        if record is None:
            record = replace(self._worker.blank(cell), status="error", message=done.failure, seconds=done.seconds)
        elif cell is played:
            self._share(cell, record)
        else:
            record = self._placed(record, cell, self._payload(record))
        return self._write(record)

    def _write(self, record: Record) -> Record:
        """Add what is to be said of its training: here, for it is about what this run typed, and content is shared."""
        said = (record.message, self._plan.notes.get(record.defense, ""))
        record = replace(record, message="; ".join(part for part in said if part))
        record_files.append(self._path, record)
        self._records[record.key] = record
        return record

    def _share(self, cell: Cell, record: Record) -> None:
        """Offer a finished cell to other runs."""
        honest = Suspicion.CHANGED_PROCESS not in record.flags
        if record.status in FINISHED and cell.shared and honest:
            self._worker.cache.offer(CELLS, cell.content, json.loads(record.line()), self._payload(record))
            self._remark(self._worker.cache.told())

    def _payload(self, record: Record) -> bytes:
        return (self._folder / record.samples).read_bytes() if record.samples else b""

    def _placed(self, record: Record, cell: Cell, payload: bytes) -> Record:
        """A record of this cell's content at its place in this run, its per-sample file with it."""
        moved = placed(record, cell, self._plan.suite)
        if not record.samples:
            return moved
        relative = record_files.samples_path(cell.key)
        write_atomically(self._folder / relative, payload)
        return replace(moved, samples=relative)

    def _whole(self, record: Record) -> bool:
        """Whether the record's per-sample file is there as described."""
        try:
            record_files.load_samples(self._folder, record)
        except RequestError as error:
            self._mishap(f"{record.defense} x {record.attack} is played again: {error}")
            return False
        return True
