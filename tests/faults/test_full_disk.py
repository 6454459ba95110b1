"""A full disk: the run stops with how many cells are safe and the way out, and goes on when there is room."""

import os
import resource
import subprocess
from contextlib import contextmanager

import pytest
from fault_runs import PLUGINS, lines, play, start, table, write
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.core.errors import StorageError

# Without inversion, whose evaluator is larger than everything else.
SMALL = ("attacks=[noise, {pgd: {steps: 4, follow_up: false}}, {badnets: {fraction: 0.1, size: 2}}]",)
MANY = ("attacks=[noise, {pgd: {steps: 4, follow_up: false}}]", "repeats=3")


@contextmanager
def files_of_at_most(size):
    """No file grows beyond this, as on a disk with a quota per file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, and how to make it larger."""
    place = tmp_path / "disk"
    place.mkdir()

    def resize(size, how="remount,"):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"{how}size={size}", "tmpfs", str(place)], capture_output=True, check=False
        )
        return done.returncode == 0

    if os.geteuid() != 0 or not resize("1M", ""):
        pytest.skip("only root may mount a small disk here")
    yield place, resize
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with all the room it wants: its table, and how much it takes."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTS", str(folder))
        play(folder / "run", *SMALL)
    sizes = [path.stat().st_size for path in (folder / "run").rglob("*") if path.is_file()]
    return table(folder / "run"), sum(-(-size // 4096) * 4096 for size in sizes)


def safe(error, total):
    """How many cells the message says are safe."""
    import re

    found = re.search(
        rf"; make room, or mend what refuses it, and give the same command again: (\d+) of {total} ", error
    )
    assert found, error
    return int(found[1])


@pytest.mark.slow
def test_records_that_do_not_fit(tmp_path):
    play(tmp_path / "whole", *MANY)
    records = tmp_path / "whole" / "records.jsonl"
    others = [p.stat().st_size for p in (tmp_path / "whole").rglob("*") if p.is_file() and p != records]
    limit = records.stat().st_size * 2 // 3
    assert max(others) < limit, "records are what reaches the limit"
    with files_of_at_most(limit), pytest.raises(StorageError, match=r"records\.jsonl, got File too large") as refused:
        play(tmp_path / "run", *MANY)
    kept = {line["key"]: line["seconds"] for line in lines(tmp_path / "run")}
    assert 0 < len(kept) < 18
    assert safe(str(refused.value), 18) == len(kept)
    assert (tmp_path / "run" / "records.jsonl").read_bytes().endswith(b"}\n"), "no torn line is left"
    outcome = play(tmp_path / "run", *MANY)
    assert outcome.reused == len(kept)
    assert {line["key"]: line["seconds"] for line in lines(tmp_path / "run") if line["key"] in kept} == kept
    assert table(tmp_path / "run") == table(tmp_path / "whole")
    assert outcome.mishaps == ()


def test_weights_that_do_not_fit(tmp_path, whole):
    with files_of_at_most(2000), pytest.raises(StorageError, match=r"models/.*, got File too large") as refused:
        play(tmp_path / "run", *SMALL)
    assert safe(str(refused.value), 8) == 0
    play(tmp_path / "run", *SMALL)
    assert table(tmp_path / "run") == whole[0]


@pytest.mark.parametrize(
    "share", [0.05, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.3, 0.7, 0.9)), 0.5]
)
def test_a_disk_that_gets_full(disk, whole, share):
    """Whatever it is that does not fit: weights, samples or records."""
    place, resize = disk
    straight, size = whole
    resize(int(share * size))
    with pytest.raises(StorageError, match="got No space left on device") as refused:
        play(place / "run", *SMALL)
    kept = {line["key"]: line["seconds"] for line in lines(place / "run")}
    print(f"{share:.0%} of the room that it takes: {refused.value}")
    assert safe(str(refused.value), len(straight)) == len(kept)
    resize("50M")
    outcome = play(place / "run", *SMALL)
    # A cell whose record was what did not fit is in the run's cache already.
    assert (outcome.reused, outcome.recalled + outcome.ran) == (len(kept), len(straight) - len(kept))
    assert {line["key"]: line["seconds"] for line in lines(place / "run") if line["key"] in kept} == kept
    assert table(place / "run") == straight
    assert not list(place.rglob(".*.safetensors.*")), "nothing half written is left"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_the_command_says(disk, whole, tmp_path, workers):
    place, resize = disk
    straight, size = whole
    resize(int(0.5 * size))
    suite = write(tmp_path, *SMALL)
    process = start(place / "run", suite, "--no-cache", "--workers", workers)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "Traceback" not in said
    kept = lines(place / "run")
    assert safe(said.strip().splitlines()[-1], len(straight)) == len(kept)
    resize("50M")
    process = start(place / "run", suite, "--no-cache", "--workers", workers)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert f"{len(straight) - len(kept)} cells run, {len(kept)} reused" in said
    assert table(place / "run") == straight


def test_a_full_disk_for_the_cache_costs_the_cache_only(disk, whole, tmp_path, monkeypatch):
    place, resize = disk
    resize("16k")
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(place))
    outcome = play(tmp_path / "run", *SMALL, cached=True)
    assert table(tmp_path / "run") == whole[0]
    assert any("could not keep" in what and "No space left on device" in what for what in outcome.mishaps)


@pytest.mark.slow
def test_a_report_that_does_not_fit(tmp_path, whole):
    """All cells are safe; the command says what it could not write, and writes it the next time."""
    play(tmp_path / "run", *SMALL)
    suite = write(tmp_path, *SMALL)
    arguments = ["run", str(suite), "--out", str(tmp_path / "run"), "--no-cache", "--workers", "1"]
    biggest = max(p.stat().st_size for p in (tmp_path / "run").rglob("*") if p.is_file())
    with files_of_at_most(biggest + 1000):
        refused = CliRunner().invoke(app, [*arguments, "--plugin", str(PLUGINS)])
    assert refused.exit_code == 1
    assert "report.html, got File too large; make room" in refused.stderr
    done = CliRunner().invoke(app, [*arguments, "--plugin", str(PLUGINS)])
    assert done.exit_code == 0
    assert "0 cells run, 8 reused" in done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
