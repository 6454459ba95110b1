"""A worker process sizes its pools for the suite's threads before it loads anything."""

import os
import sys
import time
from pathlib import Path

import pytest

from robustsuite.core.processor import THREADS
from robustsuite.runner.processes import Processes
from robustsuite.runner.resolver import Resolver
from robustsuite.runner.worker import Worker
from robustsuite.storage.store import Store
from robustsuite.suite.load import load_suite


def environment_of(pid):
    """What a process was started with; there is none in the moment between its fork and its start."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        lines = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        if any(line.startswith("PATH=") for line in lines):
            return lines
        time.sleep(0.01)
    raise TimeoutError


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of a process from /proc")
def test_a_worker_process_starts_with_the_suites_threads(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ)
    suite = load_suite("quickstart", ["threads=3"])
    workers = Processes(Worker(Resolver(suite), tmp_path, "cpu", Store(tmp_path / "cache")), 1)
    slot = workers._all[0]
    try:
        slot.ready()
        assert slot._process is not None
        lines = environment_of(slot._process.pid)
    finally:
        workers.close(at_once=True)
    assert {f"{name}=3" for name in THREADS} <= set(lines)
    assert dict(os.environ) == before
