"""A cell that is repeated agrees with its record, and whatever was tampered with is found out."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.core.errors import RequestError
from robustsuite.evaluation import record_files
from robustsuite.runner.replay import find, replay
from robustsuite.runner.run import run
from robustsuite.suite.load import load_suite

SUITE = """
name: replayed
dataset: {name: digits, train: 300, test: 60}
model: {name: logistic}
training: {epochs: 2, lr: 5.0e-3, batch_size: 32}
threat: {norm: linf, radius: 0.1, curve: [0.05], curve_samples: 20}
repeats: 2
defenses: [none, {input-validation: {false_alarm_rate: 0.1}}]
attacks:
  [noise, {pgd: {steps: 4, follow_up: false}}, {badnets: {fraction: 0.1, size: 2}}, {model-inversion: {steps: 5}}]
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "replayed.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="module")
def original(suite, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "run"
    assert run(load_suite(suite), folder, cached=False).errors == 0
    return folder


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def records(folder):
    return record_files.read(folder / "records.jsonl")


def chosen(folder, attack, radius=None):
    return next(r for r in records(folder) if r.attack == attack and radius in (None, r.radius))


def rewrite(folder, record, **changes):
    """Forge one line of the records."""
    path = folder / "records.jsonl"
    record_files.write(path, [replace(r, **changes) if r.key == record.key else r for r in record_files.read(path)])


def told(found):
    return [difference.what for difference in found.differences]


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("attack", ["none", "noise", "pgd", "badnets", "model-inversion"])
def test_a_cell_of_every_game_agrees_with_its_record(original, attack):
    before = content(original)
    for record in (r for r in records(original) if r.attack == attack and r.defense == "none"):
        found = replay(original, record.key)
        assert found.agrees, [str(difference) for difference in found.differences]
        assert found.changed == ()
        assert found.trained == 0
        assert found.repeated.key == record.key
    assert content(original) == before


@pytest.mark.parametrize("attack", ["none", "badnets", "model-inversion"])
def test_it_agrees_when_everything_is_trained_again(original, attack):
    found = replay(original, chosen(original, attack).key, retrain=True)
    assert found.agrees
    assert found.trained == {"none": 1, "badnets": 2, "model-inversion": 2}[attack]


@pytest.mark.slow
def test_a_run_of_two_workers_is_repeated_by_one(suite, original, tmp_path):
    assert run(load_suite(suite), tmp_path / "two", workers=2, cached=False).errors == 0
    for attack in ("none", "pgd", "badnets", "model-inversion"):
        assert replay(tmp_path / "two", chosen(tmp_path / "two", attack).key).agrees


def test_it_does_not_believe_what_runs_share(suite, tmp_path, monkeypatch):
    """The judged cell is played, even where the cache holds it."""
    monkeypatch.setenv("ROBUSTSUITE_CACHE", str(tmp_path / "cache"))
    run(load_suite(suite, ["defenses=[none]", "attacks=[noise]", "repeats=1"]), tmp_path / "run")
    record = chosen(tmp_path / "run", "noise", 0.1)
    forged = {**record.metrics, "robust_accuracy": replace(record.metrics["robust_accuracy"], value=1.0)}
    for file in (tmp_path / "cache" / "cells").glob("*.json"):
        assert json.loads(file.read_text())["facts"]["key"]
    rewrite(tmp_path / "run", record, metrics=forged)
    assert told(replay(tmp_path / "run", record.key)) == ["robust_accuracy (value)"]


def test_a_forged_metric_flag_or_status_is_found_out(folder):
    record = chosen(folder, "pgd", 0.1)
    value = record.metrics["robust_accuracy"].value
    forged = {**record.metrics, "robust_accuracy": replace(record.metrics["robust_accuracy"], value=value + 1e-12)}
    rewrite(folder, record, metrics=forged)
    found = replay(folder, record.key)
    assert told(found) == ["robust_accuracy (value)"]
    assert str(value) in str(found.differences[0])
    rewrite(folder, record, metrics=dict(record.metrics), flags=["made-up"])
    assert told(replay(folder, record.key)) == ["flags"]
    rewrite(folder, record, flags=list(record.flags), status="inconclusive")
    assert told(replay(folder, record.key)) == ["status"]
    rewrite(folder, record, status="ok", cost={**record.cost, "backwards": 0})
    assert told(replay(folder, record.key)) == ["backwards"]


def test_times_are_not_held_against_anybody(folder):
    record = chosen(folder, "none")
    slow = {name: replace(record.metrics[name], value=1e9) for name in ("latency_ms", "train_seconds")}
    rewrite(folder, record, metrics={**record.metrics, **slow}, seconds=1e9)
    assert replay(folder, record.key).agrees


def test_a_changed_sample_is_found_out_and_named(folder):
    record = chosen(folder, "noise", 0.1)
    path = folder / record.samples
    columns = load_file(path)
    column = next(name for name, value in columns.items() if value.dtype == torch.bool and len(value) == 60)
    columns[column][7] = ~columns[column][7]
    save_file(columns, path)
    found = replay(folder, record.key)
    assert told(found) == ["per-sample file", f"column {column}"]
    assert found.differences[1].ids == (int(columns["id"][7]),)
    assert "1 sample differs" in str(found.differences[1])
    # With a digest to match, the samples themselves still tell.
    import hashlib

    rewrite(folder, record, samples_digest=hashlib.sha256(path.read_bytes()).hexdigest())
    assert told(replay(folder, record.key)) == [f"column {column}"]


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_sample_file_that_is_gone_or_foreign_is_found_out(folder, content):
    record = chosen(folder, "noise", 0.1)
    (folder / record.samples).unlink()
    if content is not None:
        (folder / record.samples).write_bytes(content)
    assert told(replay(folder, record.key)) == ["per-sample file"]


def test_damaged_weights_are_trained_again_elsewhere(folder):
    for file in (folder / "models").glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"!")
    before = content(folder)
    found = replay(folder, chosen(folder, "none").key)
    assert found.agrees
    assert found.trained == 1
    assert any("damaged" in note for note in found.notes)
    assert content(folder) == before


def test_the_suite_that_counts_is_the_runs_own(suite, original, tmp_path):
    other = tmp_path / "elsewhere.yaml"
    other.write_text(SUITE.replace("epochs: 2", "epochs: 3"))
    assert replay(original, chosen(original, "noise").key).agrees


def test_another_suite_in_the_folder_is_said_first_and_compared_by_label(folder):
    path = folder / "suite.yaml"
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 4"))
    heard = []
    record = chosen(folder, "none")
    found = replay(folder, record.key, announce=lambda record, changed: heard.append((record.key, changed)))
    ((key, changed),) = heard
    assert key == record.key
    assert "its key is another now" in changed[0]
    assert found.repeated.key != record.key
    assert "expected_calibration_error (value)" in told(found)
    assert found.trained == 1
    path.write_text(path.read_text().replace("radius: 0.1", "radius: 0.2"))
    with pytest.raises(RequestError, match=r"a suite that plans none x pgd at 0\.1"):
        replay(folder, chosen(folder, "pgd", 0.1).key)


def test_a_point_of_a_curve_is_told_from_the_cell_at_the_same_radius(folder):
    path = folder / "suite.yaml"
    path.write_text(path.read_text().replace("- 0.05", "- 0.1"))
    for record in (r for r in records(folder) if r.attack == "pgd" and r.radius == 0.1):
        assert replay(folder, record.key).agrees


def test_other_rules_are_said_by_name_and_value_and_nothing_follows(folder):
    path, record = folder / "suite.yaml", chosen(folder, "badnets")
    path.write_text(path.read_text().replace("fraction: 0.1", "fraction: 0.2"))
    found = replay(folder, record.key)
    assert found.rules == "other rules (fraction 0.1, now 0.2)"
    assert found.rules in found.changed
    assert not found.agrees
    done = invoke(folder, record.key)
    assert done.exit_code == 3, done.output
    assert f"inconclusive, for it is another game: {found.rules}\n" in done.stdout


def test_a_query_budget_is_a_rule(folder):
    path, record = folder / "suite.yaml", chosen(folder, "pgd", 0.1)
    path.write_text(path.read_text().replace("curve_samples: 20", "curve_samples: 20\n  query_budget: 7"))
    assert replay(folder, record.key).rules == "other rules (query_budget unset, now 7)"


def test_rules_that_were_forged_are_a_difference(folder):
    record = chosen(folder, "badnets")
    rewrite(folder, record, rules={"fraction": 0.5})
    found = replay(folder, record.key)
    assert (found.rules, told(found)) == ("", ["rules"])
    assert invoke(folder, record.key).exit_code == 1


def test_other_versions_are_said_first(folder):
    record = chosen(folder, "noise", 0.1)
    versions = {**record.environment["versions"], "torch": "1.0.0"}
    rewrite(folder, record, environment={**record.environment, "versions": versions, "python": "3.0.0"})
    heard = []
    replay(folder, record.key, announce=lambda record, changed: heard.extend(changed))
    now = chosen(folder, "none").environment
    assert heard == [
        f"python was 3.0.0, and is {now['python']}",
        f"torch was 1.0.0, and is {now['versions']['torch']}",
    ]


def test_a_beginning_of_a_key_is_enough_where_it_is_its_own(original):
    found = records(original)
    assert find(found, found[3].key[:12], original) == found[3]
    with pytest.raises(RequestError, match="a key that only one record has") as ambiguous:
        find(found, "", original)
    assert found[0].key in str(ambiguous.value)
    assert f"and {len(found) - 5} more" in str(ambiguous.value)
    wrong = found[3].key[:9] + "x"
    with pytest.raises(RequestError, match="did you mean") as unknown:
        find(found, wrong, original)
    assert found[3].key in str(unknown.value)
    with pytest.raises(RequestError, match=r"results\.csv"):
        find(found, "nothing of the kind", original)


@pytest.mark.slow
def test_a_cell_that_failed_fails_again(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = (
        "from dataclasses import dataclass\nfrom robustsuite import register\n"
        "@register.attack('breaks', scenario='evasion', access='white-box')\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Breaks:\n"
        "    '''Raise.'''\n    def __call__(self, view, streams):\n        raise ValueError('as planned')\n"
    )
    (tmp_path / "breaks.py").write_text(source)
    suite = load_suite(
        folder / "suite.yaml",
        ["attacks=[breaks]", "defenses=[none]", "repeats=1", "plugins=[breaks.py]", "threat.curve=[]"],
    )
    run(suite, tmp_path / "failing", cached=False)
    record = next(r for r in records(tmp_path / "failing") if r.attack == "breaks")
    assert record.status == "error"
    assert replay(tmp_path / "failing", record.key).agrees
    rewrite(tmp_path / "failing", record, message="ValueError: something else")
    assert told(replay(tmp_path / "failing", record.key)) == ["error"]


def invoke(*arguments):
    return CliRunner().invoke(app, ["replay", *map(str, arguments)])


def test_the_command_says_it_in_words_json_and_exit_codes(folder):
    record = chosen(folder, "badnets")
    agreed = invoke(folder, record.key[:12])
    assert agreed.exit_code == 0
    assert agreed.stdout.startswith("agrees: status ok, ")
    assert f"replaying {record.key}: none x badnets" in agreed.stderr
    rewrite(folder, record, flags=["made-up"])
    differs = invoke(folder, record.key, "--json", "--quiet")
    assert differs.exit_code == 1
    said = json.loads(differs.stdout)
    assert said["key"] == record.key
    assert not said["agrees"]
    assert [d["what"] for d in said["differences"]] == ["flags"]
    for wrong in (invoke(folder, "nonsense"), invoke(folder, ""), invoke(folder.parent, record.key)):
        assert wrong.exit_code == 2
        assert wrong.stderr.startswith("error: expected ")
