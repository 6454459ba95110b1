"""What runs on the nodes of a Ray cluster: one piece of work at a time, in a folder of its own."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from filelock import FileLock, Timeout

from robustsuite.core.errors import RequestError
from robustsuite.plugins import provenance
from robustsuite.runner.bundle import Carried
from robustsuite.runner.plan import Node
from robustsuite.runner.watching import HANGS, traced, watched
from robustsuite.runner.worker import Done, Worker, set_threads
from robustsuite.storage.store import Kept, Store

_SCRATCH: Final = "robustsuite-ray-"
_LOCK: Final = ".lock"
_SETTLED: Final = 60.0  # seconds after which a folder that nobody holds is nobody's
_COARSE: Final = 0.05  # seconds by which clocks of file systems may be behind
_LIMIT: Final = 4 * 10**9  # bytes of weights and artefacts that each process keeps at hand on its node


class Made(NamedTuple):
    """An entry of a store, on its way to another."""

    kind: str
    key: str
    kept: Kept


@dataclass(frozen=True)
class Parcel:
    """What every worker of a run is told, once.

    Args:
        token: Names the run on the nodes.
        worker: What each is a copy of, its data included.
        carried: Files that the suite names.
        code: Digest of the code that keys were made with.
        timeout: Seconds after which a piece of work counts as hanging.
        share: Whether the run's folder and the cache may be used where a node sees them.
    """

    token: str
    worker: Worker
    carried: Carried
    code: str
    timeout: float | None
    share: bool


@dataclass(frozen=True)
class Answer:
    """What comes back from a node.

    Args:
        done: What the work gave.
        made: Entries that it made, where the node does not see the run's folder.
        samples: The per-sample file of its record, likewise.
    """

    done: Done
    made: tuple[Made, ...] = ()
    samples: bytes = b""


@dataclass(frozen=True)
class Seen:
    """What a node is like.

    Args:
        code: Digest of its code.
        versions: Of the libraries that results depend on.
        shares: Whether it sees the run's folder and the cache.
        accelerated: Whether torch is built for GPUs; none can be seen by a look that takes none.
    """

    code: str
    versions: dict[str, str]
    shares: bool
    accelerated: bool


def sign(token: str) -> str:
    """Name of the file by which nodes recognise a folder that they share with the driver."""
    return f".{_SCRATCH}{token}"


def probe(token: str, places: Sequence[Path]) -> Seen:
    """Look around on this node."""
    import torch

    versions = {name: provenance.version(name) for name in ("robustsuite", *provenance.LIBRARIES)}
    return Seen(provenance.all_code(), versions, _shares(token, places), bool(torch.version.cuda or torch.version.hip))


def perform(parcel: Sequence[Any], token: str, node: Node, needs: Sequence[Any]) -> Answer:
    """Do one piece of work.

    Args:
        parcel: Reference to the `Parcel`, read once by each process.
        token: Of the run.
        node: What to do.
        needs: References to the tuples of `Made` that it needs.
    """
    global _home
    if _home is None or _home.token != token:
        import ray

        _home = None  # the data of another run go before those of this one come
        _home = Home(ray.get(parcel[0]))
    return _home.perform(node, needs)


def traces(token: str, key: str) -> str:
    """What a process on this node left of where it hung; empty where none did."""
    found = Path(tempfile.gettempdir()).glob(f"{_SCRATCH}{token}-*/{HANGS}/{key}.txt")
    return next((text for text in map(traced, sorted(found)) if text), "")


def sweep(token: str) -> None:
    """Remove what this run left on this node."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}{token}-*"):
        shutil.rmtree(folder, ignore_errors=True)


class Home:
    """What one process of a node keeps for one run."""

    def __init__(self, parcel: Parcel) -> None:
        if provenance.all_code() != parcel.code:
            raise RequestError("expected the driver's code on every node, got other code; install the same versions")
        set_threads(parcel.worker.suite.threads)  # before anything is computed here
        _reap(parcel.token)
        self.token, self._timeout = parcel.token, parcel.timeout
        self._scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{parcel.token}-"))
        self._lock = FileLock(self._scratch / _LOCK)  # held as long as this process lives: see `_reap`
        self._lock.acquire()
        self._origins = parcel.carried.unpack(self._scratch / "carried")
        worker = parcel.worker
        self._shares = parcel.share and _shares(parcel.token, (worker.folder, worker.cache.root))
        self._store = Store(self._scratch / "made", _LIMIT)
        # One store for both: what the run keeps and what runs share are sorted out by the driver.
        self._worker = worker if self._shares else replace(worker, folder=self._store.root, cache=self._store)

    def perform(self, node: Node, needs: Sequence[Any]) -> Answer:
        """Do one piece of work, and pick up what it made."""
        set_threads(self._worker.suite.threads)
        given = set() if self._shares else set(self._fetch(needs))
        started = time.time() - _COARSE
        with watched(self._scratch / HANGS / f"{node.key}.txt", self._timeout):
            done = self._told(self._worker.perform(node).unless_spoilt())
        if self._shares:
            return Answer(done)
        # Not only what is new: an answer may have been lost with what was made for it, and is asked for again.
        used = [(entry.kind, entry.key) for entry in self._store.entries() if entry.used >= started]
        read = [(kind, key, self._store.get(kind, key)) for kind, key in used if (kind, key) not in given]
        made = tuple(Made(kind, key, kept) for kind, key, kept in read if kept is not None)
        answer = Answer(done, made, self._samples(done))
        self._store.trim()
        return answer

    def _fetch(self, needs: Sequence[Any]) -> Iterator[tuple[str, str]]:
        """Put what is needed into this node's store; yields kinds and keys."""
        import ray

        for made in ray.get(list(needs)):
            for kind, key, kept in made:
                if not self._store.has(kind, key):
                    self._store.put(kind, key, *kept)
                yield kind, key

    def _samples(self, done: Done) -> bytes:
        if done.record is None or not done.record.samples:
            return b""
        file = self._store.root / done.record.samples
        content = file.read_bytes()
        file.unlink()
        return content

    def _told(self, done: Done) -> Done:
        """With the paths that the user knows, in tracebacks."""
        record, failure = done.record, done.failure
        for here, origin in self._origins.items():
            failure = failure.replace(here, origin)
            record = None if record is None else replace(record, message=record.message.replace(here, origin))
        return replace(done, record=record, failure=failure)


_home: Home | None = None


def _shares(token: str, places: Sequence[Path]) -> bool:
    return all((place / sign(token)).is_file() for place in places)


def _reap(token: str) -> None:
    """Remove the folders of processes that are gone, their locks being free; what hung in this run is still to tell."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*-*"):
        own = folder.name.startswith(f"{_SCRATCH}{token}-")
        with suppress(OSError, Timeout):
            settled = time.time() - folder.stat().st_mtime > _SETTLED
            if settled and not (own and any((folder / HANGS).glob("*.txt"))):
                with FileLock(folder / _LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
