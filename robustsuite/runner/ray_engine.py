"""The `ray` engine: pieces of work as Ray Core tasks, on a cluster that is there or on one that is started here."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from robustsuite.core.errors import RequestError, StorageError
from robustsuite.plugins import provenance
from robustsuite.runner import ray_tasks
from robustsuite.runner.bundle import Carried
from robustsuite.runner.plan import Node
from robustsuite.runner.ray_cluster import agree, cause, connect, fits, import_ray, needs, no_room, reason, unfit
from robustsuite.runner.ray_tasks import Answer, Made, Parcel
from robustsuite.runner.schedule import LostError
from robustsuite.runner.watching import hung
from robustsuite.runner.worker import ARTEFACTS, Done, Worker
from robustsuite.storage.files import write_atomically
from robustsuite.storage.store import Store
from robustsuite.training.cache import KIND as MODELS

CARRY: Final = "ROBUSTSUITE_RAY_CARRY"
_RETRAININGS: Final = "retrainings"
_KEPT: Final = 64  # results kept in the object store; others are read from disk again
_LOOK: Final = 5.0  # seconds between two looks at how large the cluster is
_STALE: Final = 86_400.0  # seconds after which the sign of a driver that did not take it away is nobody's
_ANSWER: Final = 300.0  # seconds in which a node has to start its first worker


class Cluster:
    """A Ray cluster as an engine.

    Data are sent once; weights and artefacts go through the run's folder where a node sees it, else through the object
    store and the driver, which keeps a copy of everything: a node that dies costs only what ran on it.

    Args:
        worker: What each process of the cluster is a copy of.
        address: `auto`, `host:port`, `ray://host:port`, or None for `$RAY_ADDRESS`, or else one that is started here.
        workers: Most pieces of work at once; None for as many as there is room for.
        timeout: Seconds after which a piece of work counts as hanging; None waits for ever.

    Raises:
        RequestError: No ray, no cluster, another version of anything that matters, no room for a single worker.
    """

    def __init__(
        self, worker: Worker, address: str | None, workers: int | None = None, timeout: float | None = None
    ) -> None:
        self._ray = import_ray()
        self._worker, self._workers, self._timeout = worker, workers, timeout
        self._token = secrets.token_hex(8)
        self._places = (worker.folder, worker.cache.root)
        self._results: OrderedDict[str, Any] = OrderedDict()
        self._made: dict[str, tuple[tuple[str, str], ...]] = {}
        self._running: dict[Future[Done], Any] = {}
        self._looked, self._room = float("-inf"), 0
        self._receiver = ThreadPoolExecutor(1, "robustsuite-ray")
        self._connected, started = connect(self._ray, worker, address, workers)
        try:
            self._needs = needs(self._ray, worker, workers if started else None)
            self._open()
        except BaseException:
            self.close(at_once=True)
            raise

    @property
    def slots(self) -> int:
        """How many pieces of work the cluster has room for now, or as many as were asked for."""
        if self._workers is not None:
            return self._workers
        if time.monotonic() - self._looked > _LOOK:
            self._room = max(1, sum(fits(node, self._needs) for node in self._nodes()))
            self._looked = time.monotonic()
        return self._room

    def submit(self, node: Node) -> Future[Done]:
        """Hand it to the cluster, unless it is known already."""
        outer: Future[Done] = Future()
        known = self._known(node)
        if known is not None:
            outer.set_result(known)
            return outer
        wanted = [self._result(need) for need in node.needs] if self._carries else []
        ref = self._perform.options(name=node.label).remote(
            [self._parcel], self._token, node, [found for found in wanted if found is not None]
        )
        self._running[outer] = ref
        # Files are written outside of Ray's own threads.
        ref.future().add_done_callback(lambda inner: self._receive(node, outer, inner))
        return outer

    def close(self, *, at_once: bool) -> None:
        """Cancel what runs, clean up on the nodes, and disconnect if the connection was made here."""
        if at_once:
            for ref in list(self._running.values()):
                with contextlib.suppress(Exception):
                    self._ray.cancel(ref, force=True)
        self._receiver.shutdown(wait=not at_once, cancel_futures=at_once)
        with contextlib.suppress(Exception):
            list(self._everywhere(ray_tasks.sweep, self._token, seconds=10.0))
        for place in self._places:
            with contextlib.suppress(OSError):
                (place / ray_tasks.sign(self._token)).unlink(missing_ok=True)
        if self._connected:
            self._ray.shutdown()

    def _open(self) -> None:
        """Look at every node, then send what all workers need."""
        if not any(fits(node, self._needs) for node in self._nodes()):
            raise no_room(self._needs, self._nodes())
        signed = self._sign()
        seen = list(self._everywhere(ray_tasks.probe, self._token, self._places, seconds=_ANSWER))
        agree(seen, self._worker.device)
        share = signed and os.environ.get(CARRY, "") in ("", "0") and all(node.shares for _, node in seen)
        self._carries = not share
        worker = self._worker
        sent = replace(worker, splits=worker.data, progress=None, device=worker.device.partition(":")[0])
        parcel = Parcel(self._token, sent, Carried.of(worker.suite), provenance.all_code(), self._timeout, share)
        self._parcel = self._ray.put(parcel)
        # Lost work is tried again by the schedule, which tells the user.
        self._perform = self._ray.remote(**self._needs, max_retries=0)(ray_tasks.perform)

    def _sign(self) -> bool:
        """Leave the files by which nodes recognise what they share with the driver; whether they could be left."""
        for place in self._places:
            for old in place.glob(ray_tasks.sign("*")):  # of drivers that were killed
                with contextlib.suppress(OSError):
                    if time.time() - old.stat().st_mtime > _STALE:
                        old.unlink()
            try:
                write_atomically(place / ray_tasks.sign(self._token), self._token.encode())
            except StorageError:
                return False
        return True

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _everywhere(self, task: Any, *args: Any, seconds: float) -> Iterator[tuple[str, Any]]:
        """Run a small task on every node, and yield address and answer; nodes that die meanwhile are passed over."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote = self._ray.remote(num_cpus=0, max_retries=1)(task)
        refs = {
            remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                *args
            ): node["NodeManagerAddress"]
            for node in self._nodes()
            if fits(node, self._needs)
        }
        _, late = self._ray.wait(list(refs), num_returns=len(refs), timeout=seconds)
        for ref, address in refs.items():
            if ref in late:
                raise RequestError(f"expected an answer of node {address}, got none in {seconds:g} s; look at its logs")
            try:
                yield address, self._ray.get(ref)
            except self._ray.exceptions.RayTaskError as error:
                raise unfit(address, error) from error
            except self._ray.exceptions.RayError:
                continue

    def _known(self, node: Node) -> Done | None:
        """What a store has already, without asking the cluster."""
        made, seconds = self._kept_as(node)
        if not made or any(self._recall(*entry) is None for entry in made):
            return None
        self._made[node.key] = made
        return Done(seconds=seconds)

    def _kept_as(self, node: Node) -> tuple[tuple[tuple[str, str], ...], float]:
        """Entries that this node makes, as far as that is known before it has run, and how long it took then."""
        kind = {"training": MODELS, "job": MODELS, "artefact": ARTEFACTS}.get(node.kind)
        if kind is not None:
            return ((kind, node.key),), 0.0
        link = self._worker.cache.get(_RETRAININGS, node.key) if node.kind == "retraining" else None
        if link is None:
            return (), 0.0
        return tuple((str(kind), str(key)) for kind, key in link.facts["made"]), float(link.facts["seconds"])

    def _recall(self, kind: str, key: str) -> Made | None:
        """An entry of the run or of the cache; weights are then the run's too."""
        own = Store(self._worker.folder)
        kept = own.get(kind, key)
        if kept is None:
            kept = self._worker.cache.get(kind, key)
            if kept is not None and kind == MODELS:
                own.put(kind, key, *kept)
        return None if kept is None else Made(kind, key, kept)

    def _result(self, need: str) -> Any | None:
        """A reference to what this node made, for nodes that do not see the run's folder."""
        if need not in self._results:
            found = [self._recall(*entry) for entry in self._made.get(need, ())]
            entries = tuple(entry for entry in found if entry is not None)
            if not entries:
                return None
            self._results[need] = self._ray.put(entries)
        self._results.move_to_end(need)
        while len(self._results) > _KEPT:
            self._results.popitem(last=False)
        return self._results[need]

    def _receive(self, node: Node, outer: Future[Done], inner: Future[Answer]) -> None:
        def settle() -> None:
            self._running.pop(outer, None)
            try:
                outer.set_result(self._taken(node, inner.result()))
            except BaseException as error:  # the schedule raises what is no loss
                outer.set_exception(self._explain(node, error))

        with contextlib.suppress(RuntimeError):  # closed meanwhile: nobody waits for it
            self._receiver.submit(settle)

    def _taken(self, node: Node, answer: Answer) -> Done:
        """Write what came back where a worker on this machine would have written it."""
        folder, cache = self._worker.folder, self._worker.cache
        if answer.done.refused and self._carries:
            raise LostError(f"its node could not work: {answer.done.refused}")
        if answer.samples and answer.done.record is not None:
            write_atomically(folder / answer.done.record.samples, answer.samples)
        for kind, key, kept in answer.made:
            if kind == MODELS:
                Store(folder).put(kind, key, *kept)
            cache.offer(kind, key, *kept)
        self._made[node.key] = tuple((kind, key) for kind, key, _ in answer.made)
        if node.kind == "retraining" and answer.made:
            cache.offer(_RETRAININGS, node.key, {"made": self._made[node.key], "seconds": answer.done.seconds})
        return replace(answer.done, notes=(*answer.done.notes, *cache.told()))

    def _explain(self, node: Node, error: BaseException) -> BaseException:
        """What the schedule is to make of an error."""
        known = self._ray.exceptions
        trace = self._trace(node) if isinstance(error, known.WorkerCrashedError) else ""
        if self._timeout is not None and trace:
            return LostError(hung(self._timeout, trace), trace=trace, again=False)
        if isinstance(error, known.RayTaskError):
            return LostError(f"the worker could not start: {cause(error)}")
        if isinstance(error, (known.RayError, CancelledError)):
            return LostError(reason(known, error))
        return error

    def _trace(self, node: Node) -> str:
        """Where it hung; only its node knows, and Ray does not say which that is."""
        if self._timeout is None:
            return ""
        with contextlib.suppress(Exception):
            told = self._everywhere(ray_tasks.traces, self._token, node.key, seconds=60.0)
            return next((text for _, text in told if text), "")
        return ""
