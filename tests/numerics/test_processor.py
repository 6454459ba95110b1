"""Threads: each worker its own, and none of the caller's are kept."""

import os
import subprocess
import sys

import pytest
import torch

import robustsuite as rs
from robustsuite.core.processor import THREADS, cores, fair_threads, threads_of_children
from robustsuite.testing import tiny_network, tiny_samples

POOLS = """
import os, torch
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_info
print(torch.get_num_threads(), *sorted({pool["num_threads"] for pool in threadpool_info()}))
"""


def test_these_tests_have_a_thread_each():
    """So has what they start: it inherits the variable, as is shown below."""
    assert str(torch.get_num_threads()) == os.environ["OMP_NUM_THREADS"]


def test_what_is_started_sizes_its_pools_and_the_caller_keeps_its_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = dict(os.environ)
    with threads_of_children(1):
        assert all(os.environ[name] == "1" for name in THREADS)
        done = subprocess.run([sys.executable, "-c", POOLS], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"1"}
    with pytest.raises(ZeroDivisionError), threads_of_children(2):
        raise ZeroDivisionError
    assert dict(os.environ) == before


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("workers", "share"), [(str(cores()), 1), (str(10 * cores()), 1), ("", 3), ("0", 3)])
def test_workers_of_one_machine_share_its_cores(monkeypatch, three_threads, workers, share):
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", workers)
    seen = []

    def broken():
        with fair_threads():
            seen.append(torch.get_num_threads())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert seen == [share]
    assert torch.get_num_threads() == 3


def test_an_evaluation_beside_others_takes_its_share_says_so_and_gives_back(monkeypatch, three_threads):
    data, ball = tiny_samples(12, first=10_000), rs.Ball("linf", 0.05)
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", str(cores()))
    report = rs.evaluate(tiny_network(), data, "fgsm", ball)
    assert {record.environment["threads"] for record in report.records} == {1}
    assert torch.get_num_threads() == 3
    monkeypatch.delenv("PYTEST_XDIST_WORKER_COUNT")
    report = rs.evaluate(tiny_network(), data, "fgsm", ball)
    assert {record.environment["threads"] for record in report.records} == {3}
