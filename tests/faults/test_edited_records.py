"""Records that somebody edited, took out, doubled or moved: resume plays them again, and nothing passes meanwhile."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from fault_runs import log, play, table
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.evaluation.record_files import append, inspect, read, write
from robustsuite.evaluation.records import Record
from robustsuite.report.report import Report
from robustsuite.results import gates
from robustsuite.results.compare import compare
from robustsuite.results.deciding import Outcome

GATES = "gates=[{defense: none, metric: robust_accuracy, at_most: 1.0}]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTS", str(folder))
        play(folder / "run", GATES)
    return folder / "run"


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the run, without the cache from which its cells could be recalled."""
    return shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns(".cache"))


def edit(folder, number, change):
    """Change one line as an editor would, and leave all others alone."""
    path = folder / "records.jsonl"
    rows = path.read_text().splitlines()
    rows[number] = change(rows[number])
    path.write_text("\n".join(rows) + "\n")


def a_better_figure(line):
    changed = re.sub(r'("robust_accuracy":\{[^}]*"value":)[0-9.]+', r"\g<1>0.99", line)
    assert changed != line
    return changed


def fewer_flags(line):
    changed = re.sub(r'"flags":\[[^]]+\]', '"flags":[]', line)
    assert changed != line
    return changed


def a_space(line):
    return line.replace(',"order"', ', "order"')


def no_seal(line):
    return line[: line.index(',"seal"')] + "}"


def nothing_of_the_chain(line):
    return line[: line.index(',"after"')] + "}"


def whose(folder, attack):
    return next(i for i, r in enumerate(read(folder / "records.jsonl")) if r.attack == attack)


@pytest.mark.parametrize("change", [a_better_figure, fewer_flags, a_space, no_seal, nothing_of_the_chain])
def test_an_edited_line_is_played_again_by_name(folder, straight, change):
    edit(folder, whose(folder, "pgd"), change)
    outcome = play(folder, GATES)
    assert (outcome.ran, outcome.reused) == (1, len(straight) - 1)
    assert "none x pgd, is left out: it is not what was written" in log(folder)
    assert table(folder) == straight
    assert inspect(folder / "records.jsonl").faults == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[:2] + rows[3:],
        lambda rows: rows[1:],
        lambda rows: [*rows[:3], rows[2], *rows[3:]],
        lambda rows: [rows[1], rows[0], *rows[2:]],
    ],
    ids=["taken out", "first taken out", "doubled", "moved"],
)
def test_whole_lines_that_are_elsewhere_are_seen_by_the_chain(folder, straight, change):
    path = folder / "records.jsonl"
    rows = path.read_text().splitlines()
    path.write_text("".join(f"{row}\n" for row in change(rows)))
    assert inspect(path).faults
    assert {v.outcome for v in gates.judged(Report.load(folder))} == {Outcome.INCONCLUSIVE}
    outcome = play(folder, GATES)
    assert outcome.ran == len(straight) - len({*change(rows)})
    assert table(folder) == straight
    assert inspect(path).faults == ()


def test_a_suite_that_was_changed_since_supports_no_verdict(folder):
    assert {v.outcome for v in gates.judged(Report.load(folder))} == {Outcome.PASSED}
    suite = folder / "suite.yaml"
    suite.write_text(suite.read_text().replace("robust_accuracy", "clean_accuracy"))
    (verdict,) = gates.judged(Report.load(folder))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "was not written beside the suite.yaml that is there" in verdict.message


def test_report_and_compare_say_what_they_left_out_and_end_with_3(finished, folder):
    def call(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    assert call("report", folder).exit_code == 0
    before = compare(finished, folder)
    assert before.outcome == "passed"
    edit(folder, whose(folder, "badnets"), lambda line: line.replace('"n":', '"n":1'))
    told = call("report", folder)
    assert told.exit_code == 3, "although the gate is about another cell"
    assert "none x badnets, is left out: it is not what was written" in told.stderr
    lost = "The records are not as they were written: a line of"
    assert call("report", folder, "--format", "html", "--format", "md").exit_code == 3
    assert all(lost in (folder / name).read_text() for name in ("report.html", "table.md"))
    (folder / "suite.yaml").write_text((folder / "suite.yaml").read_text().partition("gates:")[0])
    assert call("report", folder).exit_code == 3, "although no gate is asked for"
    for old, new in ((finished, folder), (folder, finished)):
        found = compare(old, new)
        assert found.outcome == "inconclusive"
        assert "none x badnets, is left out" in found.summary()
        assert call("compare", old, new, "--allow-missing").exit_code == 3


def test_a_torn_end_is_closed_and_the_chain_goes_on_from_the_last_whole_line(finished, tmp_path):
    one, two, three = read(finished / "records.jsonl")[:3]
    path = tmp_path / "records.jsonl"
    append(path, one)
    append(path, two)
    path.write_bytes(path.read_bytes()[:-1000])  # kill -9: the second line is not whole
    append(path, three)
    found = inspect(path)
    assert [record.key for record in found.records] == [one.key, three.key]
    assert (len(found.damaged), found.moved) == (1, ())
    write(path, found.records)
    assert inspect(path).faults == ()


def test_a_long_line_is_found_behind_a_torn_one(finished, tmp_path):
    one, two = read(finished / "records.jsonl")[:2]
    path = tmp_path / "records.jsonl"
    append(path, one)
    with path.open("ab") as file:
        file.write(b'{"torn": "' + b"x" * 10_000)
    append(path, two)
    lines = path.read_bytes().split(b"\n")
    assert json.loads(lines[2])["after"] == json.loads(lines[0])["seal"]


PLAIN = {"key": "k", "order": 0, "suite": "s", "dataset": "d", "model": "m", "defense": "none", "attack": "pgd"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"status": "great"}, "status"),
        ({"flags": "few-samples"}, "flags"),
        ({"flags": [1]}, "flags"),
        ({"order": "0"}, "order"),
        ({"repeat": -1}, "repeat"),
        ({"radius": "0.1"}, "radius"),
        ({"minimum_norm": 1}, "minimum_norm"),
        ({"cost": {"forwards": -3}}, "cost"),
        ({"history": [{"loss": "low"}]}, "history"),
        ({"metrics": {"a": {"value": "0.5"}}}, r"metrics\.a\.value"),
        ({"metrics": {"a": {"value": True}}}, r"metrics\.a\.value"),
        ({"metrics": {"a": {"value": 0.5, "n": -1}}}, r"metrics\.a\.n"),
        ({"metrics": {"a": {"value": 0.5, "n": 1.5}}}, r"metrics\.a\.n"),
        ({"metrics": {"a": {"value": 0.5, "low": 0.6, "high": 0.4}}}, r"metrics\.a with low <= high"),
        ({"metrics": {"a": 0.5}}, r"metrics\.a"),
        ({"metrics": [1]}, "metrics"),
        ({"data": None}, "data"),
    ],
)
def test_a_line_whose_values_are_of_other_types_is_as_good_as_torn(tmp_path, fields, named):
    line = {**PLAIN, "scenario": "evasion", "version": 3, **fields}
    with pytest.raises(ValueError, match=f"expected {named}"):
        Record.parse(json.dumps(line))
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(line) + "\n")
    found = inspect(path)
    assert found.records == ()
    assert "none x pgd, is left out: expected" in found.damaged[0]


def test_records_from_before_lines_carried_digests_are_read_and_said_to_be_such(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "old")
    old = [replace(record, version=3).line() for record in read(finished / "records.jsonl")]
    (folder / "records.jsonl").write_text("".join(f"{line}\n" for line in old))
    assert len(Report.load(folder)) == len(old)
    told = CliRunner().invoke(app, ["report", str(folder)])
    assert told.exit_code == 0
    assert "carry no digests, so edits of them are not seen" in told.stderr
    assert any("carry no digests" in note for note in compare(folder, finished).notes)
