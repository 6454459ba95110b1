"""Which piece of work goes next, on whatever engine: dependencies, one more try for what was lost, Ctrl-C."""

from __future__ import annotations

import _thread
import heapq
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from graphlib import TopologicalSorter
from types import FrameType
from typing import Final, Protocol

from robustsuite.runner.plan import Node
from robustsuite.runner.worker import Done

_TRIES: Final = 2  # a worker that dies may have been the victim of a neighbour; twice is no accident
_TOLD: Final = "interrupted: what runs now is finished and kept; press Ctrl-C again to stop at once"

Note = Callable[[str], None]
"""Told in one line what goes on."""


class LostError(Exception):
    """A worker ended without an answer.

    Args:
        reason: What is known of why, in one line.
        trace: What it was at, where that is known.
        again: Whether the same may well go better a second time.
    """

    def __init__(self, reason: str, *, trace: str = "", again: bool = True) -> None:
        super().__init__(reason)
        self.trace, self.again = trace, again


class Engine(Protocol):
    """Where work is done: it takes one node at a time, and knows nothing of their order."""

    @property
    def slots(self) -> int:
        """How many nodes may be submitted at once."""

    def submit(self, node: Node) -> Future[Done]:
        """Start this node; the future raises `LostError` where the worker ended without an answer."""

    def close(self, *, at_once: bool) -> None:
        """Let go of all workers; `at_once` does not wait for what runs."""


class Schedule:
    """Runs nodes in an order that respects what they need, victims' trainings first, then in plan order.

    Args:
        nodes: What to do, each after what it needs; a need that is not among them is there already.
        engine: Where.
        note: Told what starts.
        mishap: Told what was lost.
        tell: Told what an interruption does; `note` where it is not given.
    """

    def __init__(
        self, nodes: Sequence[Node], engine: Engine, note: Note, mishap: Note, tell: Note | None = None
    ) -> None:
        self._nodes = {node.key: node for node in nodes}
        self._engine, self._note, self._mishap = engine, note, mishap
        self._tell = tell if tell is not None else note
        self._tries: Counter[str] = Counter()
        self._failed: dict[str, str] = {}
        self._ready: list[tuple[int, int, str]] = []
        self._running: dict[Future[Done], Node] = {}
        self._interrupted = False

    def run(self) -> Iterator[tuple[Node, Done]]:
        """Yield what is done as it comes.

        A node whose need failed is not started: it fails for the same reason.

        Raises:
            KeyboardInterrupt: Ctrl-C; after the first one everything that ran has been yielded.
        """
        order = TopologicalSorter({k: [n for n in v.needs if n in self._nodes] for k, v in self._nodes.items()})
        order.prepare()
        with self._interruptible():
            while order.is_active():
                for key in order.get_ready():
                    self._queue(self._nodes[key])
                while self._ready and len(self._running) < self._engine.slots and not self._interrupted:
                    node = self._nodes[heapq.heappop(self._ready)[2]]
                    reason = next((self._failed[need] for need in node.needs if need in self._failed), "")
                    if reason:
                        self._failed[node.key] = reason
                        order.done(node.key)
                        yield node, Done(failure=reason)
                        continue
                    self._note(node.label)
                    self._running[self._engine.submit(node)] = node
                if not self._running and self._interrupted:
                    break
                for node, done in self._finished():
                    order.done(node.key)
                    yield node, done
            if self._interrupted:
                raise KeyboardInterrupt

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C once lets what runs finish, twice stops at once; outside the main thread no signal arrives."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            if before is not None:  # None where it was set outside of Python
                signal.signal(signal.SIGINT, before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        # On a thread of its own: this one may be in the middle of writing to the same stream.
        _thread.start_new_thread(self._tell, (_TOLD,))

    def _queue(self, node: Node) -> None:
        heapq.heappush(self._ready, (int(node.kind != "training"), node.cell.order, node.key))

    def _finished(self) -> Iterator[tuple[Node, Done]]:
        done, _ = wait(self._running, return_when=FIRST_COMPLETED) if self._running else ((), ())
        for future in done:
            node = self._running.pop(future)
            try:
                result = future.result()
            except LostError as lost:
                self._tries[node.key] += 1
                self._mishap(f"{node.label}: {lost}")
                if lost.again and self._tries[node.key] < _TRIES:
                    self._queue(node)
                    continue
                result = Done(failure="\n".join(part for part in (lost.trace, str(lost)) if part))
            if result.failure:
                self._failed[node.key] = result.failure
            yield node, result
