"""Readers that have enough, and outputs that are closed or full: what was asked for is done all the same."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

SUITE = """\
name: tiny
plugins: [loud.py]
dataset: {name: digits, train: 200, test: 30}
model: {name: logistic}
training: {epochs: 1, batch_size: 50, lr: 1.0e-2, validation: 0.0}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
attacks: [loud]
gates: [{attack: none, metric: clean_accuracy, at_least: FLOOR}]
"""
LOUD = '''
from dataclasses import dataclass

import robustsuite as rs


@rs.register.attack("loud", scenario="evasion", access="blind")
@dataclass(frozen=True, kw_only=True)
class Loud:
    """Print."""

    def __call__(self, view, streams):
        print("a plug-in that prints " * 1000, flush=True)
        return view.x
'''
COMMAND = [sys.executable, "-P", "-m", "robustsuite"]


@contextmanager
def unread():
    """The end of a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def run(folder, *arguments, **streams):
    known = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*COMMAND, *arguments], cwd=folder, env=known, text=True, timeout=200, check=False, **streams)


def closed(folder, *arguments, which):
    command = f'exec "$@" {which}'
    return subprocess.run(
        ["bash", "-c", command, "bash", *COMMAND, *arguments],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, timeout=200, check=False,
        capture_output=True,
    )  # fmt: skip


def suite(folder, floor):
    (folder / "suite.yaml").write_text(SUITE.replace("FLOOR", str(floor)))
    (folder / "loud.py").write_text(LOUD)


def whole(folder):
    return {"report.html", "results.csv", "junit.xml"} <= {path.name for path in (folder / "runs" / "tiny").iterdir()}


@pytest.mark.parametrize(
    ("floor", "code", "workers"), [pytest.param(0.0, 0, "2", marks=pytest.mark.slow), (1.0, 1, "1")]
)
def test_a_run_that_nobody_reads_ends_as_its_gates_do(tmp_path, floor, code, workers):
    suite(tmp_path, floor)
    with unread() as nowhere:
        done = run(tmp_path, "run", "suite.yaml", "--no-cache", "--workers", workers, stdout=nowhere, stderr=nowhere)
    assert done.returncode == code
    assert whole(tmp_path)


@pytest.mark.slow  # a reader that is gone is the other way
def test_a_run_with_its_outputs_closed_leaves_its_report(tmp_path):
    suite(tmp_path, 0.0)
    done = closed(tmp_path, "run", "suite.yaml", "--no-cache", "--workers", "1", which=">&- 2>&- <&-")
    assert done.returncode == 0
    assert whole(tmp_path)
    inside = [path.read_bytes() for path in Path(tmp_path, "runs").rglob("*") if path.is_file()]
    assert not any(b"a plug-in that prints" in content for content in inside), "it went into no file"


@pytest.mark.parametrize("arguments", [["list", "attacks"], ["--help"]])
def test_a_list_that_nobody_reads_is_no_failure(tmp_path, arguments):
    with unread() as nowhere:
        done = run(tmp_path, *arguments, stdout=nowhere, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_list_with_its_output_closed(tmp_path):
    done = closed(tmp_path, "list", "suites", which=">&-")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_the_output_is_one_line_and_1(tmp_path):
    with open("/dev/full", "w") as full:
        done = run(tmp_path, "list", "attacks", "--json", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr.startswith("error: expected to write ")
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
