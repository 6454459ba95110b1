"""Two runs at once: in one folder the second is refused; in two folders they share what they train."""

import pytest
from fault_runs import PLUGINS, await_, play, start, table, write
from typer.testing import CliRunner

from robustsuite.cli.app import app

WAITING = ("attacks=[{faulty: {does: wait}}]", "defenses=[none]")
COUNTED = ("defenses=[counted]", "attacks=[noise, {badnets: {fraction: 0.1, size: 2}}]")


def test_a_second_run_in_one_folder_is_refused_and_the_first_goes_on(tmp_path, faults):
    suite = write(tmp_path, *WAITING)
    first = start(tmp_path / "run", suite, "--no-cache", "--workers", "1")
    await_(lambda: list(faults.glob("at-*")) or first.poll() is not None, "a cell that waits")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    for more in ([], ["--fresh"]):
        arguments = ["run", str(suite), "--out", str(tmp_path / "run"), "--workers", "1", "--plugin", str(PLUGINS)]
        second = CliRunner().invoke(app, [*arguments, *more])
        assert second.exit_code == 2
        assert "expected a folder that no other run uses, got out=" in second.stderr
        assert "wait for that run, or choose another --out" in second.stderr
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    (faults / "go").touch()
    _, said = first.communicate(timeout=100)
    assert first.returncode == 0, said
    assert play(tmp_path / "run", *WAITING).reused == 2


@pytest.mark.slow  # within one process in tests/runner/test_plan_graph.py
@pytest.mark.parametrize("workers", [1, 2])
def test_two_runs_that_share_the_cache_train_once(tmp_path, faults, workers):
    """Both need the same two trainings at the same time; whoever comes second waits and reads."""
    suite = write(tmp_path, *COUNTED)
    both = [start(tmp_path / name, suite, "--workers", str(workers)) for name in ("one", "two")]
    for process in both:
        _, said = process.communicate(timeout=250)
        assert process.returncode == 0, said
    assert len((faults / "trainings").read_text().splitlines()) == 2
    assert table(tmp_path / "one") == table(tmp_path / "two")
    play(tmp_path / "three", *COUNTED, cached=True)
    assert len((faults / "trainings").read_text().splitlines()) == 2
    play(tmp_path / "alone", *COUNTED)
    assert len((faults / "trainings").read_text().splitlines()) == 4
    assert table(tmp_path / "alone") == table(tmp_path / "one")
