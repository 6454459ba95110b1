"""Whether a record is a point of a curve: the run says so, and of older records it is derived in one place."""

import json
import shutil
from dataclasses import replace

import pytest

from robustsuite.evaluation.record_files import append, inspect, read, write
from robustsuite.evaluation.records import Record
from robustsuite.report.report import Report
from robustsuite.runner.run import run
from robustsuite.storage.seals import unsealed
from robustsuite.suite.load import load_suite

SUITE = """\
name: small
dataset: {name: digits, train: 100, test: 50}
model: logistic
training: {epochs: 1}
threat: {norm: linf, radius: 0.1, curve: [0.05, 0.1], curve_samples: 20}
attacks: [noise, fgsm]
"""


def record(key, attack="pgd", radius=None, **fields):
    given = {"suite": "s", "dataset": "d", "model": "m", "defense": "none", "scenario": "evasion", "version": 3}
    return Record(key=key, order=int(key), attack=attack, radius=radius, **{**given, **fields})


def without_sweeps(path):
    """The records as runs wrote them before they said so."""
    old = [json.loads(replace(record, sweep="", version=3).line()) for record in read(path)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in old))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("swept") / "s.yaml"
    path.write_text(SUITE)
    run(load_suite(path), path.parent / "run", cached=False)
    return path.parent


def test_a_run_says_which_of_its_records_are_points_of_curves(folder):
    found = read(folder / "run" / "records.jsonl")
    assert [(r.attack, r.radius, r.data["n"], r.sweep) for r in found] == [
        ("none", None, 50, ""),
        ("noise", 0.1, 50, ""),
        ("fgsm", 0.1, 50, ""),
        ("fgsm", 0.05, 20, "radius"),
        ("fgsm", 0.1, 20, "radius"),
    ]


def test_a_line_says_so_where_it_is_one(folder):
    lines = (folder / "run" / "records.jsonl").read_text().splitlines()
    assert ["sweep" in json.loads(line) for line in lines].count(True) == 2
    assert all(unsealed(line.encode()).startswith(Record.parse(line).line()[:-1].encode()) for line in lines)


def test_of_older_records_it_is_derived_and_a_resumed_run_says_it(folder):
    path = folder / "run" / "records.jsonl"
    before, found = path.read_text(), read(path)
    without_sweeps(path)
    assert inspect(path).unsealed == len(found)
    assert read(path) == [replace(record, version=3) for record in found]
    run(load_suite(folder / "s.yaml"), folder / "run", cached=False)
    assert read(path) == [replace(record, version=3) for record in found]
    assert inspect(path).unsealed == 0
    write(path, found)
    assert path.read_text() == before


def test_each_suite_has_a_radius_of_its_own(tmp_path):
    path = tmp_path / "records.jsonl"
    made = [
        record("0", radius=0.1, suite="near"),
        record("1", radius=0.2, suite="near"),
        record("2", attack="none", scenario="utility", suite="far"),
        record("3", status="error", suite="far"),  # it failed before it knew its ball
        record("4", attack="fgsm", radius=0.2, suite="far"),
        record("5", radius=0.1, suite="far"),
        record("6", status="error", suite="far"),
    ]
    for one in made:
        append(path, one)
    assert [r.key for r in read(path) if r.sweep] == ["1", "5", "6"]


def test_a_point_of_a_curve_is_no_cell_of_the_comparison(folder, tmp_path):
    """A cell that is gone counts as not run, although its attack was played at another radius."""
    copied = shutil.copytree(folder / "run", tmp_path / "run")
    lines = (copied / "records.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if '"attack":"fgsm"' not in line or '"sweep":"radius"' in line]
    assert len(kept) == len(lines) - 1
    (copied / "records.jsonl").write_text("".join(kept))
    (absent,) = [r for r in Report.load(copied).records if r.status == "not_run"]
    assert (absent.attack, absent.sweep) == ("fgsm", "")
