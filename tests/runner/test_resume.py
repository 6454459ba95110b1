"""Runs that are killed, resumed, split over workers: the same table, and nothing finished runs again."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustsuite.evaluation import record_files

pytestmark = pytest.mark.slow  # in short in tests/faults

SUITE = """
name: small
dataset: {name: digits, train: 600, test: 60}
model: {name: mlp, hidden: [32]}
training: {epochs: 3, lr: 5.0e-3, batch_size: 32}
threat: {norm: linf, radius: 0.15, curve: [0.05], curve_samples: 30}
defenses:
  - none
  - adversarial-training: {attack: fgsm-rs}
  - input-validation
attacks:
  - noise
  - pgd: {steps: 10, follow_up: false}
  - badnets: {fraction: 0.1, size: 2}
  - model-inversion: {steps: 20}
"""
TIMES = {"seconds"}
MEASURED = {"latency_ms", "train_seconds"}  # metrics that are times


def command(folder, suite, *more):
    return [
        sys.executable,
        "-m",
        "robustsuite",
        "run",
        str(suite),
        "--out",
        str(folder),
        "--quiet",
        "--no-cache",
        *more,
    ]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def run(folder, suite, *more):
    done = subprocess.run(
        command(folder, suite, *more), env=environment(), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def rows(folder):
    with (folder / "results.csv").open() as file:
        return [
            {k: v for k, v in row.items() if k not in TIMES}
            for row in csv.DictReader(file)
            if row["metric"] not in MEASURED
        ]


def lines(folder):
    path = folder / "records.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "small.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="module")
def straight(suite, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    run(folder, suite, "--workers", "1")
    return folder


def test_two_workers_give_the_same_table(suite, straight, tmp_path):
    run(tmp_path / "run", suite, "--workers", "2")
    assert rows(tmp_path / "run") == rows(straight)
    assert (tmp_path / "run" / "table.md").read_text() == (straight / "table.md").read_text()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_kill_dash_nine_then_the_same_command(suite, straight, tmp_path, share):
    """Killed when about this share of the cells is on disk; what is on disk is not played again."""
    folder = tmp_path / "run"
    total = len(lines(straight))
    process = subprocess.Popen(
        command(folder, suite, "--workers", "2"),
        env=environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while len(lines(folder)) < share * total and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {line["key"]: line for line in lines(folder)}
    assert 0 < len(finished) < total
    run(folder, suite, "--workers", "1")
    after = {line["key"]: line for line in lines(folder)}
    assert {key: after[key]["seconds"] for key in finished} == {key: line["seconds"] for key, line in finished.items()}
    assert len(lines(folder)) == total
    assert rows(folder) == rows(straight)


def test_a_finished_run_plays_nothing(suite, straight):
    before = (straight / "records.jsonl").read_bytes()
    started = time.monotonic()
    run(straight, suite, "--workers", "1")
    assert (straight / "records.jsonl").read_bytes() == before
    assert time.monotonic() - started < 120


def test_a_torn_last_line_costs_one_cell(suite, straight, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    path = folder / "records.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    assert len(record_files.read(path)) == len(lines(straight)) - 1
    run(folder, suite)
    assert rows(folder) == rows(straight)


def test_a_changed_sample_file_is_made_again(suite, straight, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    victim = sorted((folder / "samples").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:-3] + b"abc")
    run(folder, suite)
    assert rows(folder) == rows(straight)


def test_another_radius_sets_old_cells_aside(suite, straight, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    run(folder, suite, "--set", "threat.radius=0.1")
    radii = {line["radius"] for line in lines(folder)}
    assert 0.15 not in radii
    assert any(json.loads(line)["radius"] == 0.15 for line in (folder / "records.old.jsonl").read_text().splitlines())
    trained = {line["key"] for line in lines(folder)} & {line["key"] for line in lines(straight)}
    assert trained, "cells without a ball are kept"


def test_two_runs_in_one_folder(suite, straight):
    from filelock import FileLock

    with FileLock(straight / ".lock"):
        done = subprocess.run(
            command(straight, suite), env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 2
    assert "no other run uses" in " ".join(done.stderr.split())


def test_the_resolved_suite_reproduces_the_run(straight, tmp_path):
    run(tmp_path / "again", straight / "suite.yaml", "--workers", "2")
    assert rows(tmp_path / "again") == rows(straight)


def test_defences_that_only_serve_share_the_training(straight):
    """none and input-validation: one victim's training and one poisoned training between them."""
    weights = sorted(Path(straight / "models").glob("*.safetensors"))
    assert len(weights) == 5  # none, adversarial training, each once more on poisoned data, and one evaluator
