"""Runs that something happens to, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from robustsuite.evaluation import record_files
from robustsuite.runner.run import run
from robustsuite.suite.load import load_suite

PLUGINS = Path(__file__).with_name("fault_plugins.py")
SUITE = """
name: faults
dataset: {name: digits, train: 200, test: 60}
model: {name: logistic}
training: {epochs: 2, lr: 5.0e-3, batch_size: 32}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
defenses: [none, {input-validation: {false_alarm_rate: 0.1}}]
attacks:
  [noise, {pgd: {steps: 4, follow_up: false}}, {badnets: {fraction: 0.1, size: 2}}, {model-inversion: {steps: 5}}]
"""
_TIMES = ("seconds", "milliseconds")


def write(folder, *changes):
    """The suite as a file, with these settings in place of its own."""
    path = Path(folder) / "faults.yaml"
    path.write_text(load(*changes).to_yaml())
    return path


def load(*changes):
    source = Path(os.environ["FAULTS"]) / "plain.yaml"
    source.write_text(SUITE)
    return load_suite(source, list(changes), [str(PLUGINS)])


def play(folder, *changes, **options):
    """Run here, or with worker processes below this one."""
    return run(load(*changes), Path(folder), **{"cached": False, **options})


def start(folder, suite, *more, **settings):
    """Start the command as a user would, in a group of its own as a shell would."""
    command = [sys.executable, "-m", "robustsuite", "run", str(suite), "--out", str(folder), "--plugin", str(PLUGINS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.Popen(
        [*command, *more],
        env=environment,
        cwd=Path(suite).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **settings,
    )


def table(folder):
    """All that a run found out, times aside, in plan order."""
    return [
        (
            *(record.key, record.order, record.defense, record.attack, record.radius, record.repeat, record.status),
            record.flags,
            {n: m for n, m in record.metrics.items() if m.unit not in _TIMES},
            dict(record.cost),
            record.samples_digest,
        )
        for record in records(folder)
    ]


def records(folder):
    return record_files.read(Path(folder) / "records.jsonl")


def lines(folder):
    """Whole lines as they stand, so that what is there twice is seen twice."""
    path = Path(folder) / "records.jsonl"
    if not path.exists():
        return []
    found = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def log(folder):
    path = Path(folder) / "run.log"
    return path.read_text() if path.exists() else ""


def await_(condition, what, seconds=120.0):
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {seconds} s in vain for: {what}")


def session(process):
    """All that still runs of what `start` started, whoever its parent is now."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, leader = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(leader) == process.pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def workers_of(process):
    """Its worker processes."""
    found = []
    for pid in session(process):
        try:
            told = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"spawn_main" in told:
            found.append(pid)
    return found


def gone(process):
    """Wait until nothing of it is left."""
    await_(lambda: not session(process), "the end of every process", 20)


def interrupt(process):
    """Ctrl-C, as a terminal gives it: to the whole group."""
    os.killpg(process.pid, signal.SIGINT)
