"""`evaluate --budget`: ended in time, gone on with, and gone on with after kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.evaluation.record_files import read

ATTACK = '''
import time
from dataclasses import dataclass

import torch

import robustsuite as rs


@rs.register.attack("dear", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class Dear:
    """Stay where one is; each sample takes its time.

    Args:
        seconds: For each sample.
    """

    seconds: float = 0.0

    def __call__(self, view, streams):
        for row in torch.arange(len(view.y)):
            time.sleep(self.seconds)
            view.broken(view.x[row : row + 1], row[None])
        return view.x.clone()
'''
NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return nn.functional.one_hot(x.flatten(1).argmax(1) % 10, 10) * self.weight


def net():
    return Net()
"""
COMMAND = ("evaluate", "net.py:net", "--data", "digits", "--plugin", "dear.py", "--radius", "0.1")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    Path("dear.py").write_text(ATTACK)


def attack(seconds):
    return ("--attack", f"dear(seconds={seconds}, follow_up=False)")


@pytest.mark.parametrize("wrong", ["0", "10x", "-5s", "1h30", ""])
def test_what_is_no_time_is_a_wrong_request(wrong):
    found = CliRunner().invoke(app, [*COMMAND, f"--budget={wrong}", "--out", "run"])
    assert found.exit_code == 2
    assert (
        f"expected a time above 0, got budget={wrong!r}; write it like 30s, 10m, 1h30m, or in seconds" in found.output
    )
    assert not Path("run").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_command_ends_in_time_and_goes_on_after_kill(tmp_path):
    """All of it takes three minutes; times are those of the whole command, the start of Python among them."""
    command = [sys.executable, "-m", "robustsuite", *COMMAND, *attack(0.5), "--out", "run"]
    started = time.monotonic()
    process = subprocess.Popen([*command, "--budget", "100s"])
    while not Path("run/batches/records.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    used = time.monotonic() - started
    kept = json.loads(Path("run/batches/clock.json").read_text())
    assert kept["spent"] == pytest.approx(used, abs=3)
    before = read(Path("run/batches/records.jsonl"))
    started = time.monotonic()
    again = subprocess.run([*command, "--budget", "100s"], check=True, text=True, capture_output=True)
    whole = used + time.monotonic() - started
    if os.getloadavg()[0] < (os.cpu_count() or 1):  # else the start of Python alone may take as long
        assert 85 < whole < 110
    found = read(Path("run/records.jsonl"))[-1]
    after = {record.key: record.seconds for record in read(Path("run/batches/records.jsonl"))}
    assert {record.key: record.seconds for record in before}.items() <= after.items()
    judged = found.budget["judged"]
    assert 17 < judged < 360
    assert f"{judged} of 360 samples in" in again.stdout
    assert "no suite.yaml" in again.stderr
    more = subprocess.run([*command, "--budget", "5m"], check=True, text=True, capture_output=True)
    assert "all 360 samples in" in more.stdout
