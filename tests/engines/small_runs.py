"""Suites with strangers' code in them, runs in processes of their own, and a Ray cluster of two nodes."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

PLUGIN = '''
import os, time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from robustsuite.access.views import Inputs
from robustsuite.plugins.registry import register
from robustsuite.core.streams import Streams


@register.attack("dawdle", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class Dawdle:
    """Do nothing; for the first one that comes along, take a while over it.

    Args:
        marker: File that the first one leaves, with its process id.
        seconds: How long it takes.
    """

    marker: str
    seconds: float = 0.0

    def __call__(self, view: Inputs, streams: Streams) -> Tensor:
        try:
            with Path(self.marker).open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return view.x
        time.sleep(self.seconds)
        return view.x


@register.attack("threads", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class Threads:
    """Fail, and say with how many threads."""

    def __call__(self, view: Inputs, streams: Streams) -> Tensor:
        raise ArithmeticError(f"{torch.get_num_threads()} threads")
'''
FACTORY = """
from beside import WIDTH
from torch import nn


def build(classes, shape):
    inputs = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes))
"""
SUITE = """
name: small
plugins: [plugin.py]
dataset: {name: digits, train: 300, test: 60}
model: {factory: "nets/mine.py:build"}
training: {epochs: 2, lr: 5.0e-3, batch_size: 32}
threat: {norm: linf, radius: 0.15, curve_samples: 0}
defenses: [none, {adversarial-training: {attack: fgsm-rs}}, {input-validation: {false_alarm_rate: 0.1}}]
attacks:
  - noise
  - pgd: {steps: 3}
  - badnets: {fraction: 0.1, size: 2}
  - threads
  - dawdle: {marker: MARKER, seconds: 6}
"""
TIMES = ("train_seconds", "latency_ms")
# Nobody else on this network may use the cluster; Ray before 2.52 knows no tokens and ignores this.
GUARD = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


class Place:
    """A working folder with a suite in it, and runs of that suite."""

    def __init__(self, root):
        self.root, self.marker = root, root / "marker"
        (root / "nets").mkdir()
        (root / "plugin.py").write_text(PLUGIN)
        (root / "nets" / "mine.py").write_text(FACTORY)
        (root / "nets" / "beside.py").write_text("WIDTH = 12\n")
        (root / "suite.yaml").write_text(SUITE.replace("MARKER", str(self.marker)))

    def start(self, out, *more, carry=False, workers="2", **settings):
        """Start a run; the first `dawdle` will dawdle."""
        self.marker.unlink(missing_ok=True)
        command = [sys.executable, "-P", "-m", "robustsuite", "run", "suite.yaml", "--out", str(out), "--quiet"]
        command += ["--no-cache", "--workers", workers, *more]
        environment = {**os.environ, **GUARD, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "400"}
        environment["ROBUSTSUITE_RAY_CARRY"] = str(int(carry))
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.root, env=environment, **pipes, **settings)

    def run(self, out, *more, expected=1, **settings):
        """Run to the end; one, since `threads` always fails."""
        return finish(self.start(out, *more, **settings), expected)


def finish(process, expected=1):
    out, err = process.communicate(timeout=240)
    assert process.returncode == expected, (process.returncode, err, out)
    return err


def wait_for(path, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)
    return path.read_text()


def lines(folder):
    path = folder / "records.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def facts(folder):
    """Every record but for what is measured in seconds, in plan order."""
    found = sorted(lines(folder), key=lambda record: record["order"])
    for record in found:
        for name in ("seconds", "after", "seal"):
            del record[name]
        for name in TIMES:
            record["metrics"].pop(name, None)
    return found


def left_behind(text):
    """Living processes whose command line holds this text."""
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if text in line]


class TwoNodes:
    """The cluster in a process of its own."""

    def __init__(self):
        script = Path(__file__).with_name("two_nodes.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = {**os.environ, **GUARD, "RAY_USAGE_STATS_ENABLED": "0"}
        command = [sys.executable, "-P", str(script)]
        self._process = subprocess.Popen(command, cwd="/", env=environment, start_new_session=True, **pipes)
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the cluster did not start"

    def tell(self, word):
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == "done"

    def stop(self):
        self._process.stdin.close()
        try:
            self._process.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
