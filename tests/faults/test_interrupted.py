"""Ctrl-C: once lets what runs finish, twice stops at once; nothing is left behind, and the same command goes on."""

import pytest
from fault_runs import await_, gone, interrupt, log, play, records, session, start, table, write

# Two cells that wait until they may go on, each with another one behind it.
WAITING = ("attacks=[{faulty: {does: wait}}, noise]",)


def waiting(tmp_path, faults, workers):
    """Start a run, and wait until every worker is in the middle of a cell."""
    process = start(tmp_path / "run", write(tmp_path, *WAITING), "--no-cache", "--workers", str(workers))
    await_(lambda: len(list(faults.glob("at-*"))) == workers or process.poll() is not None, "cells that wait")
    assert process.poll() is None, process.communicate()
    return process


def heard(process, what):
    """Read on until it says so."""
    for line in process.stderr:
        if what in line:
            return
    raise AssertionError(f"it never said: {what}")


def undisturbed(tmp_path, faults):
    (faults / "go").touch()
    play(tmp_path / "undisturbed", *WAITING)
    return table(tmp_path / "undisturbed")


@pytest.mark.slow  # tests/cli/test_processes.py interrupts the command by default
@pytest.mark.parametrize("workers", [1, 2])
def test_once(tmp_path, faults, workers):
    process = waiting(tmp_path, faults, workers)
    interrupt(process)
    heard(process, "interrupted: what runs now is finished and kept; press Ctrl-C again to stop at once")
    (faults / "go").touch()
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "interrupted; the same command goes on where it stopped" in said
    assert "Traceback" not in said
    gone(process)
    kept = table(tmp_path / "run")
    assert sum(row[3] == "faulty" for row in kept) == workers
    # With one worker nothing was begun after the cell that ran; with two, each stopped behind its own.
    assert sum(row[3] == "noise" for row in kept) == workers - 1
    straight = undisturbed(tmp_path, faults)
    outcome = play(tmp_path / "run", *WAITING)
    assert outcome.reused == len(kept)
    assert table(tmp_path / "run") == straight


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_twice(tmp_path, faults, workers):
    process = waiting(tmp_path, faults, workers)
    interrupt(process)
    heard(process, "press Ctrl-C again to stop at once")
    assert len(session(process)) > workers - 1
    interrupt(process)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    gone(process)
    kept = table(tmp_path / "run")
    assert not any(row[3] == "faulty" for row in kept)
    straight = undisturbed(tmp_path, faults)
    outcome = play(tmp_path / "run", *WAITING)
    assert outcome.reused == len(kept)
    assert outcome.mishaps == ()
    assert log(tmp_path / "run") == ""
    assert table(tmp_path / "run") == straight
    assert all(record.status == "ok" for record in records(tmp_path / "run"))
