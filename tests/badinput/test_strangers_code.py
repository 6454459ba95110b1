"""A suite and a run's folder are data: no code that they name runs unless the user stands behind it."""

import json
import shutil
from pathlib import Path

import pytest
from strangers import OWN, STRANGERS, model, way_out
from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.cli.app import app
from robustsuite.plugins.trust import Trust
from robustsuite.suite.load import load_suite


@pytest.mark.parametrize(
    ("command", "road"),
    [*(("run", road) for road in STRANGERS), *(("train", road) for road in STRANGERS if road != "a surrogate")],
)
def test_a_stranger_is_refused(command, road, place):
    place.write(STRANGERS[road])
    output = place.call(command, "suite.yaml", "--quiet", code=2)
    assert not place.mark.exists()
    assert way_out(output)


@pytest.mark.parametrize("road", STRANGERS)
def test_a_dry_run_lists_a_stranger(road, place):
    place.write(STRANGERS[road])
    output = place.call("run", "suite.yaml", "--dry-run", code=0)
    assert not place.mark.exists()
    assert "not checked" in output
    assert way_out(output)


@pytest.mark.parametrize("road", OWN)
def test_a_dry_run_runs_no_code_of_the_working_folder_either(road, place):
    place.write(OWN[road])
    output = place.call("run", "suite.yaml", "--dry-run", code=0)
    assert not place.mark.exists()
    assert "suite.yaml:" in output.partition("not checked")[2]
    assert ("to do, time: not known" in output) == ("factory" in str(OWN[road]))


def test_a_dry_run_names_who_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("def fit(samples, seed, device):\n    raise SystemExit\n")
    Path("mine.yaml").write_text(
        "name: mine\ndataset: {name: digits, train: 200, test: 100}\n"
        'training: {factory: "train.py:fit"}\ndefenses: [none]\nattacks: [label-flip]\n'
    )
    found = CliRunner().invoke(app, ["run", "mine.yaml", "--dry-run"])
    assert "digits, a network trained by train.py:fit, seed 0" in found.output


@pytest.mark.parametrize("road", {**STRANGERS, **OWN})
def test_replay_runs_nothing_of_a_folder(road, place, finished):
    shutil.copytree(finished, "taken")
    place.write({**STRANGERS, **OWN}[road], "taken")
    key = json.loads(Path("taken/records.jsonl").read_text().splitlines()[-1])["key"]
    output = place.call("replay", "taken", key, code=2)
    assert not place.mark.exists()
    assert way_out(output)


@pytest.mark.parametrize("road", {**STRANGERS, **OWN})
def test_reports_and_comparisons_run_nothing_of_a_folder(road, place, finished):
    shutil.copytree(finished, "taken")
    place.write({**STRANGERS, **OWN}[road], "taken")
    for arguments in (
        ("report", "taken", "--format", "terminal", "--format", "html", "--format", "junit", "--format", "sarif"),
        ("compare", finished, "taken"),
        ("compare", "taken", finished),
    ):
        CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert not place.mark.exists()


@pytest.mark.parametrize("road", OWN)
def test_run_runs_the_working_folder(road, place):
    place.write(OWN[road])
    gated = "gates" in OWN[road]  # on too few samples for a verdict
    place.call("run", "suite.yaml", "--out", "run", "--quiet", "--workers", 1, code=3 if gated else 0)
    assert place.mark.exists()


@pytest.mark.parametrize(
    ("road", "options"),
    [
        ("a file above", ("--trust", "../there/evil.py")),
        ("a module on the path", ("--trust", "evil")),
        ("a surrogate", ("--trust", "THERE/evil.py")),
        ("data of a file above", ("--trust", "THERE/evil.py")),
        ("a plug-in above", ("--plugin", "../there/evil.py")),
        ("a plug-in above", ("--trust", "../there/evil.py")),
        ("a file above", ("--set", "model.factory=../there/evil.py:build")),
    ],
)
def test_what_the_user_names_runs_also_in_a_dry_run(road, options, place):
    place.write(STRANGERS[road])
    options = [option.replace("THERE", str(place.there)) for option in options]
    output = place.call("run", "suite.yaml", "--dry-run", *options, code=0)
    assert place.mark.exists()
    assert "not checked" not in output
    assert "cells in the folder" in output


def test_replay_with_trust_agrees(place):
    place.write(model("nets:build"))
    place.call("run", "suite.yaml", "--out", "run", "--quiet", "--workers", 1, code=0)
    key = json.loads(Path("run/records.jsonl").read_text().splitlines()[-1])["key"]
    refused = place.call("replay", "run", key, code=2)
    assert "model.factory: expected code that is trusted, got factory='nets:build'" in refused
    assert "agrees" in place.call("replay", "run", key, "--trust", "nets", code=0)


def test_typing_one_value_frees_no_other(place):
    """Until now one plug-in file that was typed freed all those that the suite names."""
    (place.here / "mine.py").write_text((place.here / "nets.py").read_text().replace(str(place.mark), "own-mark"))
    place.write({"plugins": ["mine.py", "../there/evil.py"]})
    place.call("run", "suite.yaml", "--set", "plugins.0=mine.py", code=2)
    assert not place.mark.exists()
    place.write(model("../there/evil.py:build"))
    place.call("run", "suite.yaml", "--set", "model.width=3", code=2)
    assert not place.mark.exists()


def test_a_trusted_module_frees_no_other_whose_name_begins_alike(place):
    (place.there / "evil_twin.py").write_text((place.there / "evil.py").read_text())
    place.write(model("evil_twin:build"))
    output = place.call("run", "suite.yaml", "--quiet", "--trust", "evil", code=2)
    assert not place.mark.exists()
    assert way_out(output)


def test_a_trust_that_names_no_module_is_refused(place):
    place.write({})
    output = place.call("run", "suite.yaml", "--trust", "evil:build", code=2)
    assert "expected a module or a .py file, got trust='evil:build'" in output


def test_python_needs_the_same_names(place):
    place.write(model("../there/evil.py:build"))
    with pytest.raises(rs.RequestError, match=r"type --trust \.\./there/evil\.py \(in\s+Python"):
        rs.run("suite.yaml", "out")
    assert not place.mark.exists()
    rs.run("suite.yaml", "out", trust=["../there/evil.py"])
    assert place.mark.exists()


def test_a_suite_of_the_class_is_read_without_running_it(place):
    place.write(model("../there/evil.py:build"))
    suite = load_suite("suite.yaml", trust=Trust(defers=True))
    assert [problem.path for problem in suite.origin.unchecked] == [("model", "factory")]
    assert not place.mark.exists()


LOADS = """
@register.attack("NAME-loads", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class Loads(Still):
    \"\"\"Load a function that the suite names, as soon as it is made.\"\"\"

    code: str = "math:sqrt"

    def __post_init__(self):
        from robustsuite.plugins.loading import load_factory

        load_factory(self.code)
"""


@pytest.mark.parametrize("mode", ["--dry-run", "--quiet"])
def test_an_option_of_a_trusted_plug_in_is_data_too(mode, place):
    """Whatever an option is called: its text becomes code in one place, which asks who stands behind it."""
    (place.here / "nets.py").write_text((place.there / "evil.py").read_text().replace(str(place.mark), "own"))
    code = (place.here / "nets.py").read_text() + LOADS.replace("NAME", place.name)
    (place.here / "nets.py").write_text(code)
    place.write({"attacks": ["noise", {f"{place.name}-loads": {"code": "../there/evil.py:build"}}]})
    output = place.call("run", "suite.yaml", "--plugin", "nets.py", mode, code=0 if mode == "--dry-run" else 2)
    assert not place.mark.exists()
    assert way_out(output)
    assert ("1 defence x 1 attack (noise)" in output) == (mode == "--dry-run")


def test_what_is_wrong_behind_what_is_left_out_keeps_its_place(place):
    listed = ["noise", place.name, {"transfer": {"networks": ["none-such"]}}]
    place.write(
        {"plugins": ["nets.py"], "attacks": listed, "defenses": [{"adversarial-training": {"attack": place.name}}]}
    )
    output = place.call("run", "suite.yaml", "--dry-run", code=2)
    assert "attacks[2].transfer: expected a known network" in output
    origin = load_suite("suite.yaml", trust=Trust(defers=True)).origin
    assert [problem.path[:2] for problem in origin.unchecked] == [("plugins", 0), ("attacks", 1), ("defenses", 0)]
