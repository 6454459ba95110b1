"""What counts as the user's code, and that checkpoints, records and repositories bring none."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from strangers import model
from typer.testing import CliRunner

import robustsuite as rs
from robustsuite.cli.app import app
from robustsuite.core.errors import UntrustedCodeError
from robustsuite.evaluation import record_files
from robustsuite.evaluation.environment import environment
from robustsuite.plugins.loading import load_factory
from robustsuite.plugins.trust import Trust

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


def test_a_record_names_no_file_outside_its_folder(place, finished):
    """What a stranger's record calls its samples is copied to the same place below another folder."""
    shutil.copytree(finished, "taken/run")
    path = Path("taken/run/records.jsonl")
    *records, last = record_files.read(path)
    shutil.copy(Path("taken/run") / last.samples, "taken/stray.safetensors")
    record_files.write(path, [*records, replace(last, samples="../stray.safetensors")])
    with pytest.raises(rs.RequestError, match=r"inside its folder, got samples='\.\./stray\.safetensors'"):
        rs.Report.load("taken/run").save("mine/copy")
    assert not Path("mine/stray.safetensors").exists()


def test_a_suite_may_not_have_weights_downloaded(place):
    place.write({"model": {"name": "squeezenet1_0", "weights": "DEFAULT", "num_classes": 1000}})
    output = place.call("run", "suite.yaml", "--dry-run", code=2)
    assert "expected no weights among the options of squeezenet1_0, got weights='DEFAULT'" in output


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
