"""Worker processes of programs that cannot be imported again: text on standard input, scripts without a main guard."""

import os
import subprocess
import sys
from types import ModuleType

import pytest

from robustsuite.plugins import provenance
from robustsuite.runner.callers import main_hidden

SUITE = """\
name: tiny
dataset: {name: digits, train: 200, test: 30}
model: {name: logistic}
training: {epochs: 1, batch_size: 50, lr: 1.0e-2, validation: 0.0}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
defenses: [none]
attacks: [noise]
"""
PLAIN = """\
print("begun", flush=True)
import robustsuite as rs

report = rs.run("suite.yaml", out="run", workers=2, cached=False)
print([(record.attack, record.status) for record in report.records])
"""
WITH_PARTS = '''\
print("begun", flush=True)
import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import nn

import robustsuite as rs
from robustsuite.runner.run import preview
from robustsuite.suite.load import load_suite

UP = 1.0


def build(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


@rs.register.attack("mine", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class Mine:
    """Step up.

    Args:
        length: How far.
    """

    length: float = 1.0

    def __call__(self, view, streams):
        return view.ball.project(view.x + UP * self.length, view.x)


set = ["attacks=[mine: {follow_up: false}]", "model={factory: '__main__:build'}"]
report = rs.run("suite.yaml", out="run", workers=2, cached=False, overrides=set)
print([(record.attack, record.status) for record in report.records])
Path("run", "records.jsonl").unlink()
shutil.rmtree(Path("run", ".cache", "cells"))
print([node.kind for node in preview(load_suite("suite.yaml", set), Path("run"), cached=False).todo])
'''


def run(folder, *arguments, given=None):
    (folder / "suite.yaml").write_text(SUITE)
    known = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, input=given, cwd=folder, env=known, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.slow  # in short by standard input
def test_a_script_without_a_main_guard_runs_once(tmp_path):
    (tmp_path / "script.py").write_text(PLAIN)
    done = run(tmp_path, "script.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["begun", "[('none', 'ok'), ('noise', 'ok')]"]
    assert done.stderr == ""


def test_text_on_standard_input_with_plug_ins_and_a_factory_of_its_own(tmp_path):
    """What was trained stands under the key that the program itself looks it up by."""
    done = run(tmp_path, "-", given=WITH_PARTS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["begun", "[('none', 'ok'), ('mine', 'ok')]", "['cell', 'cell']"]


def test_the_main_module_is_as_it_was_afterwards():
    main = sys.modules["__main__"]
    before = dict(vars(main))
    with main_hidden():
        assert getattr(main, "__file__", None) is main.__spec__ is None
    assert vars(main) == before


def typed(text):
    module = ModuleType("typed")
    sys.modules["typed"] = module
    try:
        exec(compile(text, "<stdin>", "exec"), vars(module))
        return provenance._typed_digest(module.build)
    finally:
        del sys.modules["typed"]


def test_the_key_of_what_no_file_holds_tells_what_it_does():
    text = "WIDTH = 3\ndef helper():\n    return {'a', 'b', WIDTH}\ndef build():\n    return helper()\n"
    assert typed(text) == typed(f"\n\n{text}") != ""
    others = [text.replace("WIDTH = 3", "WIDTH = 4"), text.replace("'b'", "'c'"), text.replace("return h", "h")]
    assert len({typed(other) for other in [text, *others]}) == 4
    assert typed(f"{text}_i1 = 'what was typed into a shell'\n") == typed(text)
