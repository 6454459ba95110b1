"""One seed gives equal records, on one worker or two, in whatever order the pieces of work are done."""

import random
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
from fault_runs import load, play, table

from robustsuite.evaluation import record_files
from robustsuite.runner.plan import plan
from robustsuite.runner.schedule import Schedule
from robustsuite.runner.worker import Worker, set_threads
from robustsuite.storage.store import Store


class Shuffled:
    """An engine that takes whatever is ready at random, one piece of work at a time."""

    slots = 100

    def __init__(self, worker, seed):
        self._worker, self._chance, self._waiting = worker, random.Random(seed), []
        self._filled, self._over = threading.Condition(), False
        self.order = []
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def submit(self, node):
        future = Future()
        with self._filled:
            self._waiting.append((node, future))
            self._filled.notify()
        return future

    def close(self, *, at_once):
        with self._filled:
            self._over = True
            self._filled.notify()
        self._thread.join()

    def _work(self):
        set_threads(1)
        while True:
            with self._filled:
                self._filled.wait_for(lambda: self._waiting or self._over)
                if not self._waiting:
                    return
                # Until no more comes, so that there is something to choose from.
                while self._filled.wait(0.05):
                    pass
                node, future = self._waiting.pop(self._chance.randrange(len(self._waiting)))
            self.order.append(node.key)
            future.set_result(self._worker.perform(node))


def played(folder, seed):
    suite = load()
    layout = plan(suite, "cpu")
    worker = Worker(layout.resolver, Path(folder), "cpu", Store(Path(folder) / ".cache"))
    engine = Shuffled(worker, seed)
    try:
        for node, done in Schedule(layout.nodes, engine, lambda note: None, lambda note: None).run():
            assert not done.failure
            if node.kind == "cell":
                record_files.append(Path(folder) / "records.jsonl", done.record)
    finally:
        engine.close(at_once=False)
    return engine.order, [node.key for node in layout.nodes]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_order_changes_nothing(tmp_path, straight, seed):
    order, planned = played(tmp_path, seed)
    assert sorted(order) == sorted(planned)
    assert order != planned
    assert table(tmp_path) == straight


@pytest.mark.slow
def test_two_workers_find_what_one_finds(tmp_path, straight):
    assert play(tmp_path / "run", workers=2).mishaps == ()
    assert table(tmp_path / "run") == straight


@pytest.mark.slow
def test_more_workers_than_there_is_work_for(tmp_path, straight):
    assert play(tmp_path / "run", workers=4, timeout=300).mishaps == ()
    assert table(tmp_path / "run") == straight
