"""kill -9 of the driver or of a worker, at moments that nobody chose."""

import os
import random
import shutil
import signal
import time

import pytest
from fault_runs import await_, gone, lines, log, play, records, session, start, table, workers_of, write

from robustsuite.evaluation import record_files

_SIGNS = ("suite.yaml", "records.jsonl")


def kill_the_driver(folder, suite, workers, delay, sign="suite.yaml"):
    """Start the command, and kill it so many seconds after a file is there; returns what was on disk then."""
    process = start(folder, suite, "--no-cache", "--quiet", "--workers", str(workers))
    await_(lambda: (folder / sign).exists() or process.poll() is not None, "the first file")
    time.sleep(delay)
    over = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    gone(process)
    assert over or process.returncode == -signal.SIGKILL
    return {line["key"]: line["seconds"] for line in lines(folder)}


def assert_nothing_lost(folder, before, straight, *changes):
    """The same request again: what was there is there, once, unchanged; and the table is whole."""
    outcome = play(folder, *changes)
    assert outcome.reused == len(before)
    # A worker may have kept a cell that the driver was killed before writing down.
    assert outcome.ran + outcome.recalled == len(straight) - len(before)
    assert outcome.recalled <= 2
    found = lines(folder)
    assert len(found) == len({line["key"] for line in found}) == len(straight)
    assert {line["key"]: line["seconds"] for line in found if line["key"] in before} == before
    assert table(folder) == straight
    assert not list((folder / "models").glob("*.partial.pt"))
    return outcome


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_killed_driver_loses_nothing_that_was_finished(tmp_path, straight, workers):
    delay = random.Random(workers).uniform(0.0, 0.5)
    before = kill_the_driver(tmp_path / "run", write(tmp_path), workers, delay, sign="records.jsonl")
    print(f"{workers} workers, killed after {delay:.2f} s: {len(before)} of {len(straight)} cells on disk")
    assert_nothing_lost(tmp_path / "run", before, straight)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_driver_killed_at_twenty_random_moments(tmp_path):
    chance = random.Random(20)
    suite = write(tmp_path, "repeats=2")
    straight_folder = tmp_path / "straight"
    play(straight_folder, "repeats=2")
    straight = table(straight_folder)
    took = {}
    for workers in (1, 2):  # how long it takes here and now, from the first file and from the first record
        folder = tmp_path / f"timed{workers}"
        process = start(folder, suite, "--no-cache", "--quiet", "--workers", str(workers))
        began = [await_(lambda file=folder / sign: file.exists() and time.monotonic(), sign) for sign in _SIGNS]
        process.communicate(timeout=600)
        took[workers] = dict(zip(_SIGNS, (time.monotonic() - first for first in began), strict=True))
        assert table(folder) == straight
    for moment in range(20):
        workers, sign = 1 + moment % 2, _SIGNS[moment % 5 != 0]
        folder = tmp_path / f"run{moment}"
        delay = chance.uniform(0, took[workers][sign])
        before = again = kill_the_driver(folder, suite, workers, delay, sign)
        if moment % 4 == 3:  # once more, while it goes on from there
            again = kill_the_driver(folder, suite, workers, chance.uniform(0, took[workers]["suite.yaml"]))
        assert before.items() <= again.items()
        counts = f"{len(before)}, then {len(again)}" if moment % 4 == 3 else f"{len(before)}"
        print(f"moment {moment}: {workers} workers, {delay:.2f} s after {sign}: {counts} of {len(straight)} cells")
        assert_nothing_lost(folder, again, straight, "repeats=2")
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_a_worker_killed_at_random_moments_is_replaced(tmp_path, straight):
    chance = random.Random(9)
    suite = write(tmp_path)
    for moment in range(4):
        folder = tmp_path / f"run{moment}"
        process = start(folder, suite, "--no-cache", "--workers", "2")
        await_(lambda process=process: len(workers_of(process)) == 2, "two workers")
        time.sleep(chance.uniform(0, 5.0))
        victims = workers_of(process)
        if victims:
            os.kill(chance.choice(victims), signal.SIGKILL)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        gone(process)
        assert table(folder) == straight
        lost = [line for line in log(folder).splitlines() if "the worker was killed (SIGKILL)" in line]
        print(f"moment {moment}: {len(lost)} piece of work lost and done again")
        assert len(lost) <= 1
        assert said.count("the worker was killed (SIGKILL)") == len(lost)


@pytest.mark.slow
def test_a_worker_that_holds_the_interpreter_ends_with_its_driver(tmp_path):
    process = start(
        tmp_path / "run",
        write(tmp_path, "attacks=[noise, {faulty: {does: hold}}]", "defenses=[none]"),
        "--no-cache",
        "--workers",
        "2",
    )
    await_(lambda: len(lines(tmp_path / "run")) == 2, "all but the cell that hangs")
    await_(lambda: len(workers_of(process)) == 2, "two workers")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    gone(process)


@pytest.mark.slow
def test_the_only_process_that_is_killed_by_its_work_leaves_it_to_another_next_time(tmp_path, straight):
    """One worker works in the driver; where that takes the driver with it, the next run puts the work apart."""
    from typer.testing import CliRunner

    from robustsuite.cli.app import app

    folder, changes = tmp_path / "run", ("attacks=[{faulty: {does: kill}}, noise]", "defenses=[none]")
    suite = write(tmp_path, *changes)
    process = start(folder, suite, "--no-cache", "--workers", "1")
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL
    assert session(process) == []
    assert [record.attack for record in records(folder)] == ["none"]
    arguments = ["run", str(suite), "--out", str(folder), "--no-cache", "--workers", "1"]
    from fault_runs import PLUGINS

    again = CliRunner().invoke(app, [*arguments, "--plugin", str(PLUGINS)])
    assert again.exit_code == 1
    assert "note: the last run in this folder ended without a word, at: none x faulty" in again.stderr
    assert again.stderr.count("none x faulty: the worker was killed (SIGKILL)") == 2
    found = {record.attack: record for record in record_files.read(folder / "records.jsonl")}
    assert {name: record.status for name, record in found.items()} == {"none": "ok", "faulty": "error", "noise": "ok"}
    assert not (folder / ".at").exists()
