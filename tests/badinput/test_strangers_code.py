"""A suite, a run's folder and a checkpoint are data: no code that they name runs unless the user stands behind it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.cli.app import app
from robustsuite.core.errors import UntrustedCodeError
from robustsuite.evaluation.environment import environment
from robustsuite.plugins.loading import load_factory
from robustsuite.plugins.trust import Trust
from robustsuite.suite.load import load_suite

SUITE = {
    "name": "strange",
    "dataset": {"name": "digits", "train": 60, "test": 20},
    "model": "logistic",
    "training": {"epochs": 1, "validation": 0.0},
    "threat": {"norm": "linf", "radius": 0.1, "curve_samples": 0},
    "attacks": ["noise"],
}
# Marks where its code runs, and does all that is asked of a factory or a plug-in.
CODE = """import os, subprocess
from subprocess import getoutput
from dataclasses import dataclass
from pathlib import Path
import torch
from robustsuite import register
Path(MARK).touch()

def build(classes, shape, **options):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape[-1] * shape[-2], classes))

def data():
    return torch.rand(80, 1, 8, 8), torch.arange(80) % 10

@register.attack("NAME", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class Still:
    \"\"\"Do nothing.\"\"\"

    def __call__(self, view, streams):
        return view.x.clone()
"""
TOUCH = "touch MARK"


def model(factory, **options):
    return {"model": {"factory": factory, **options}}


# What a stranger's suite says; it stands in `here`, beside links and modules that reach out of it, to `there`.
STRANGERS = {
    "a function of Python's": model("subprocess:getoutput", cmd=TOUCH),
    "a built-in function": model("posix:system", command=TOUCH),
    "a function of Python's, for data": {"dataset": {"factory": "subprocess:getoutput", "options": {"cmd": TOUCH}}},
    "a function of Python's, in a defence": {"defenses": [{"none": model("subprocess:getoutput", cmd=TOUCH)}]},
    "a file above": model("../there/evil.py:build"),
    "a file by its full path": model("THERE/evil.py:build"),
    "a file at home": model("~/evil.py:build"),
    "a link to a file": model("link.py:build"),
    "a link to a file, as a module": model("link:build"),
    "a package that is a link": model("linked.evil:build"),
    "a module behind a link": model("own.evil:build"),
    "a module on the path": model("evil:build"),
    "data of a file above": {"dataset": {"factory": "../there/evil.py:data"}},
    "a surrogate": {"attacks": [{"transfer": {"surrogate": "../there/evil.py:build"}}]},
    "what a file of the user's imports": model("tools.py:getoutput", cmd=TOUCH),
    "what a module of the user's imports": model("tools:subprocess.getoutput", cmd=TOUCH),
    "what is built in, through a file": model("tools.py:os.system", command=TOUCH),
    "the suite's own functions": model("robustsuite.plugins.registry:load_file", path="THERE/evil.py"),
    "a plug-in above": {"plugins": ["../there/evil.py"], "attacks": ["NAME"]},
    "a plug-in at home": {"plugins": ["~/evil.py"], "attacks": ["NAME"]},
    "a plug-in behind a link": {"plugins": ["link.py"], "attacks": ["NAME"]},
}
# What `run` may run, since it lies in the working folder, and nothing else may.
OWN = {
    "a file": model("nets.py:build"),
    "a module": model("nets:build"),
    "data of a file": {"dataset": {"factory": "nets.py:data"}},
    "a surrogate": {"attacks": [{"transfer": {"surrogate": "nets.py:build"}}]},
    "a plug-in": {"plugins": ["nets.py"], "attacks": ["NAME", "noise"]},
    "a plug-in inside a defence": {
        "plugins": ["nets.py"],
        "defenses": ["none", {"adversarial-training": {"attack": {"NAME": {}}, "label": "own"}}],
        "gates": [{"defense": "own", "metric": "robust_accuracy", "at_least": 0.1}],
    },
}
_count = iter(range(10**6))


def written(values):
    """Each key on a line of its own."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())


class Place:
    """The user's working folder `here`, a stranger's folder `there`, and a mark that the stranger's code leaves."""

    def __init__(self, root):
        self.here, self.there, self.mark = root / "here", root / "there", root / "mark"
        self.name = f"strange-{next(_count)}"
        for folder in (self.here, self.there, self.here / "own"):
            folder.mkdir(parents=True)
        code = CODE.replace("MARK", repr(str(self.mark))).replace("NAME", self.name)
        (self.there / "evil.py").write_text(code)
        (self.there / "__init__.py").write_text("")
        (self.here / "nets.py").write_text(code)
        (self.here / "tools.py").write_text("import os\nimport subprocess\nfrom subprocess import getoutput\n")
        (self.here / "own" / "__init__.py").write_text("")
        (self.here / "own" / "evil.py").symlink_to(self.there / "evil.py")
        (self.here / "link.py").symlink_to(self.there / "evil.py")
        (self.here / "linked").symlink_to(self.there)

    def write(self, said, folder="."):
        text = written({**SUITE, **said})
        for word, value in (("MARK", self.mark), ("THERE", self.there), ("NAME", self.name)):
            text = text.replace(word, str(value))
        (self.here / folder / "suite.yaml").write_text(text)

    def call(self, *arguments, code):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == code, done.output
        return done.output


@pytest.fixture
def place(tmp_path, monkeypatch):
    made = Place(tmp_path)
    monkeypatch.chdir(made.here)
    monkeypatch.setenv("HOME", str(made.there))
    monkeypatch.setattr(sys, "path", [*sys.path, str(made.there)])
    before = set(sys.modules)
    yield made
    for name in set(sys.modules) - before:  # the next stranger's files bear the same names
        if name.partition(".")[0] in ("evil", "link", "linked", "own", "nets", "tools", "good"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run to put a stranger's suite into."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "s.yaml").write_text(written(SUITE))
    rs.run(folder / "s.yaml", folder / "run")
    return folder / "run"


def way_out(output):
    return "a suite is data" in output and ("--trust" in output or "--plugin" in output)


@pytest.mark.parametrize("road", STRANGERS)
@pytest.mark.parametrize("command", ["run", "train"])
def test_a_stranger_is_refused(command, road, place):
    if command == "train" and road == "a surrogate":
        pytest.skip("no attack is played in training")
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


def test_the_suites_own_functions_are_nobodys_factories_in_its_checkout(monkeypatch):
    root = Path(rs.__file__).parent.parent
    monkeypatch.chdir(root)
    with Trust(folder=root).held(), pytest.raises(UntrustedCodeError, match="load_file"):
        load_factory("robustsuite.plugins.registry:load_file")


def test_packages_of_an_environment_in_the_working_folder_are_not_the_users(place, monkeypatch):
    site = place.here / ".venv" / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    shutil.copy(place.there / "evil.py", site / "evil_of_site.py")
    monkeypatch.syspath_prepend(str(site))
    place.write(model("evil_of_site:build"))
    assert "--trust evil_of_site" in place.call("run", "suite.yaml", code=2)
    assert not place.mark.exists()


class Harmful:
    """A pickle that runs a command where it is read as one."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_no_code_of_a_checkpoint_runs(place, finished):
    torch.save({"state_dict": Harmful(f"touch {place.mark}")}, "weights.pt")
    torch.save({"state_dict": Harmful(f"touch {place.mark}")}, "old.pt", _use_new_zipfile_serialization=False)
    shutil.copytree(finished, "taken")
    for weights in ("weights.pt", "old.pt"):
        place.write({"model": {"name": "logistic", "checkpoint": weights}})
        shutil.copy("suite.yaml", "taken/suite.yaml")
        key = json.loads(Path("taken/records.jsonl").read_text().splitlines()[-1])["key"]
        for arguments in (
            ("run", "suite.yaml", "--dry-run"),
            ("run", "suite.yaml", "--workers", 1),
            ("replay", "taken", key),
            ("report", "taken"),
            ("evaluate", "torch.nn:Flatten", "--data", "digits", "--checkpoint", weights, "--radius", 0.1),
        ):
            CliRunner().invoke(app, [str(argument) for argument in arguments])
            assert not place.mark.exists(), arguments


def test_names_of_plug_ins_are_looked_up_and_nothing_else(place):
    for name in ("evil", "evil.py", "../there/evil.py", "subprocess:getoutput", "art:os.system", "art:evil", "link"):
        CliRunner().invoke(app, ["show", name])
        place.write({"attacks": [name]})
        place.call("run", "suite.yaml", code=2)
    place.call("list", code=0)
    assert not place.mark.exists()


def test_a_suite_of_the_class_is_read_without_running_it(place):
    place.write(model("../there/evil.py:build"))
    suite = load_suite("suite.yaml", trust=Trust(defers=True))
    assert [problem.path for problem in suite.origin.unchecked] == [("model", "factory")]
    assert not place.mark.exists()


def test_a_record_names_no_file_outside_its_folder(place, finished):
    """What a stranger's record calls its samples is copied to the same place below another folder."""
    shutil.copytree(finished, "taken/run")
    path = Path("taken/run/records.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    shutil.copy(Path("taken/run") / lines[-1]["samples"], "taken/stray.safetensors")
    lines[-1]["samples"] = "../stray.safetensors"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(rs.RequestError, match=r"inside its folder, got samples='\.\./stray\.safetensors'"):
        rs.Report.load("taken/run").save("mine/copy")
    assert not Path("mine/stray.safetensors").exists()


def test_a_suite_may_not_have_weights_downloaded(place):
    place.write({"model": {"name": "squeezenet1_0", "weights": "DEFAULT", "num_classes": 1000}})
    output = place.call("run", "suite.yaml", "--dry-run", code=2)
    assert "expected no weights among the options of squeezenet1_0, got weights='DEFAULT'" in output


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


GOOD = """import functools, torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))

class Nets:
    @staticmethod
    def static(classes):
        return Net(classes)

    @classmethod
    def of(cls, classes):
        return Net(classes)

@torch.no_grad()
def decorated(classes):
    return Net(classes)

@functools.cache
def cached(classes):
    return Net(classes)

partial = functools.partial(Net, classes=10)
short = lambda classes: Net(classes)
ready = Net(10)
"""


@pytest.mark.parametrize(
    "name", ["Net", "Nets.static", "Nets.of", "decorated", "cached", "partial", "short", "ready", "ready.forward"]
)
def test_whatever_a_user_writes_in_a_file_is_the_users(name, place):
    (place.here / "good.py").write_text(GOOD)
    for target in (f"good.py:{name}", f"good:{name}"):
        with Trust(folder=place.here).held():
            if name != "ready.forward":
                assert callable(load_factory(target))
                continue
            with pytest.raises(UntrustedCodeError, match="nn"):  # written in torch
                load_factory(target)


@pytest.mark.parametrize(
    "name", ["Net.__init__.__globals__.get", "Net.mro", "Net.__class__", "torch.load", "functools.partial"]
)
def test_no_way_leads_from_there_to_other_code(name, place):
    (place.here / "good.py").write_text(GOOD)
    with Trust(folder=place.here).held(), pytest.raises(UntrustedCodeError):
        load_factory(f"good.py:{name}")


def test_a_repository_in_the_working_folder_runs_no_command_of_its_own(place, finished):
    """`git describe --dirty` runs what `.git/config` names, and a downloaded folder may bring one."""
    shutil.copytree(finished, "taken")
    (place.here / ".gitattributes").write_text("*.py filter=evil\n")
    for command in (
        ("init", "-q"),
        ("add", ".gitattributes", "tools.py"),
        ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"),
        ("config", "core.fsmonitor", f"touch {place.mark}"),
        ("config", "filter.evil.clean", f"touch {place.mark}; cat"),
    ):
        subprocess.run(["git", *command], check=True)
    os.utime("tools.py", (1, 1))
    environment.cache_clear()
    key = json.loads(Path("taken/records.jsonl").read_text().splitlines()[-1])["key"]
    place.call("replay", "taken", key, code=0)
    environment.cache_clear()
    place.call("evaluate", "torch.nn:Flatten", "--data", "digits", "--radius", 0.1, "--attack", "noise", code=0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    rs.evaluate(network, rs.load_data("digits", samples=9), "noise", ("linf", 0.1))
    assert not place.mark.exists()


def test_a_run_says_whether_its_files_were_committed(place):
    for command in (
        ("init", "-q"),
        ("add", "tools.py"),
        ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"),
    ):
        subprocess.run(["git", *command], check=True)
    (place.here / "tools.py").write_text("changed = True\n")
    environment.cache_clear()
    place.write({})
    place.call("run", "suite.yaml", "--out", "run", "--quiet", "--workers", 1, "--no-cache", code=0)
    environment.cache_clear()
    records = [json.loads(line) for line in Path("run/records.jsonl").read_text().splitlines()]
    assert all(record["environment"]["revision"].endswith("-dirty") for record in records)


def test_what_is_wrong_behind_what_is_left_out_keeps_its_place(place):
    listed = ["noise", place.name, {"transfer": {"networks": ["none-such"]}}]
    place.write(
        {"plugins": ["nets.py"], "attacks": listed, "defenses": [{"adversarial-training": {"attack": place.name}}]}
    )
    output = place.call("run", "suite.yaml", "--dry-run", code=2)
    assert "attacks[2].transfer: expected a known network" in output
    origin = load_suite("suite.yaml", trust=Trust(defers=True)).origin
    assert [problem.path[:2] for problem in origin.unchecked] == [("plugins", 0), ("attacks", 1), ("defenses", 0)]
