"""Plug-ins that change the process they run in: clean suites after them equal clean suites alone, figure by figure."""

import os
import re
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fault_runs import log, records, table

from robustsuite.core import patches
from robustsuite.core.roc import auc
from robustsuite.core.samples import Samples
from robustsuite.runner.run import run
from robustsuite.suite.load import load_suite
from robustsuite.training.jobs import Job

INTERRUPTED = signal.getsignal(signal.SIGINT)  # not Python's own where a shell runs the tests in its background
PLUGINS = Path(__file__).with_name("hostile_process_plugins.py")
KINDS = re.findall(r"^def ([a-z]\w+)\(\) -> None:$", PLUGINS.read_text(), re.MULTILINE)
SUITE = """
name: hostile
dataset: {name: digits, train: 120, test: 30}
model: {name: mlp}
training: {epochs: 1, lr: 5.0e-3, batch_size: 32, validation: 0.0}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
defenses: [none]
attacks: [%s]
"""
HONEST = ("noise", "{pgd: {steps: 2, follow_up: false}}", "{label-flip: {fraction: 0.1}}")
NOT_TOLD = {
    # What changes no figure of an honest cell once it is undone, or ends with the game.
    *("seed", "warn", "environ", "folder", "deep", "streams", "at_the_end", "fork", "children", "goes_on"),
    *("everything_in_reach", "compiler"),
}


def play(folder, attacks, plugins=(), **options):
    suite = folder.parent / f"{folder.name}.yaml"
    suite.write_text(SUITE % ", ".join(attacks))
    return run(load_suite(suite, [], [str(plugin) for plugin in plugins]), folder, **options)


def hostile(kind, number=0):
    return f"{{hostile-process: {{does: {kind}, follow_up: false, label: {kind}-{number}}}}}"


def figures(folder):
    """Rows of the honest cells, without their place in the plan."""
    found = [(row[3], row) for row in table(folder)]
    return {attack: (row[0], *row[2:]) for attack, row in found if attack in ("none", "noise", "pgd", "label-flip")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A clean run of a process of its own."""
    home = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTSUITE_CACHE", str(home / "cache"))
        play(home / "run", HONEST)
    found = figures(home / "run")
    assert [row[5] for row in found.values()] == ["ok"] * 4
    return found


def as_it_was():
    """The process, as far as a test can name what counts."""
    assert torch.get_default_dtype() == torch.float32
    assert torch.zeros(1).device.type == "cpu"
    assert torch.relu(torch.ones(1)) == 1
    assert torch.is_grad_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert patches.undo() == ()
    assert sys.getrecursionlimit() > 500
    assert not [t for t in threading.enumerate() if getattr(t, "_target", None).__class__.__name__ == "again"]
    assert signal.getsignal(signal.SIGINT) is INTERRUPTED


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # that is how its thread ends
@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(sorted(KINDS)[i::4], id=name, marks=pytest.mark.slow if i > 1 else ())
        for i, name in enumerate("abcd")
    ],
)
def test_clean_suites_after_hostile_ones_equal_clean_suites_alone(tmp_path, alone, kinds):
    """In one process, and through the shared cache; hostile cells stand before honest ones of the same suite."""
    where, variables = Path.cwd(), dict(os.environ)
    told = play(tmp_path / "mixed", (*map(hostile, kinds), *HONEST), [PLUGINS])
    assert figures(tmp_path / "mixed") == alone
    as_it_was()
    assert (Path.cwd(), dict(os.environ)) == (where, variables)
    for entry in (tmp_path / "cache" / "cells").glob("*"):
        entry.unlink()  # what comes after has to play, on the weights that were made before
    play(tmp_path / "later", HONEST)
    assert figures(tmp_path / "later") == alone
    by_label = {record.attack: record for record in records(tmp_path / "mixed")}
    for kind in kinds:
        record = by_label[f"{kind}-0"]
        named = "changed-process" in record.flags or record.status == "error"
        assert named or kind in NOT_TOLD, (kind, record.message)
        if "changed-process" in record.flags:
            assert "which was put back" in record.message
            assert any("which was put back" in what for what in told.mishaps)


def test_there_are_many_kinds():
    assert len(KINDS) >= 20


@pytest.mark.parametrize("kind", ["relu", "dtype"])
def test_what_a_poisoner_patches_is_undone_before_the_judge_trains(tmp_path, alone, kind):
    """Two poisoners return the same row; the models that the judge trains for them are the same."""
    attacks = [f"{{hostile-poisoner: {{does: {does}, fraction: 0.1, label: {does}}}}}" for does in (kind, "folder")]
    play(tmp_path / "run", (*attacks, *HONEST), [PLUGINS])
    assert figures(tmp_path / "run") == alone
    one, other = [r for r in records(tmp_path / "run") if r.attack in (kind, "folder")]
    assert "changed" in log(tmp_path / "run")
    assert one.metrics["accuracy_drop"] == other.metrics["accuracy_drop"]


def test_what_a_file_patches_as_it_is_loaded_is_undone_and_told(tmp_path, alone):
    file = tmp_path / "patches_when_loaded.py"
    file.write_text(
        PLUGINS.read_text().replace("hostile-", "loaded-")
        + "\nrelu()\ndtype()\nlinear()\nglobal_hook()\nbuilt_in_class()\n"
    )
    done = play(tmp_path / "run", HONEST, [file])
    as_it_was()
    assert figures(tmp_path / "run") == alone
    assert any("patches_when_loaded.py changed" in what and "torch.relu" in what for what in done.mishaps)


def test_what_an_attack_patches_as_it_is_made_is_undone(tmp_path, alone):
    made = "{hostile-process: {does: relu, when: made, follow_up: false, label: made}}"
    play(tmp_path / "run", (made, *HONEST), [PLUGINS])
    as_it_was()
    assert figures(tmp_path / "run") == alone


def test_what_functions_and_classes_hold_is_put_back_and_named(monkeypatch):
    patches.remember()
    assert patches.undo() == ()
    before = F.softmax.__defaults__, auc.__kwdefaults__, vars(Samples)["shape"], vars(Job)["of"]
    monkeypatch.setattr(F.softmax, "__defaults__", (None, 3, torch.float64))
    monkeypatch.setattr(auc, "__kwdefaults__", {"better": "higher"})
    monkeypatch.setattr(Samples, "shape", property(lambda _: (1,)))
    monkeypatch.setattr(Job, "of", classmethod(lambda *_: None))
    assert sorted(patches.undo()) == [
        "robustsuite.core.roc.auc",
        "robustsuite.core.samples.Samples.shape",
        "robustsuite.training.jobs.Job.of",
        "torch.nn.functional.softmax",
    ]
    now = F.softmax.__defaults__, auc.__kwdefaults__, vars(Samples)["shape"], vars(Job)["of"]
    assert all(one is other for one, other in zip(now, before, strict=True))
    assert patches.undo() == ()


def test_what_stands_under_another_name_is_put_back(monkeypatch):
    """The last method of a class under another name: all values are as before, and the base's method answers."""
    patches.remember()
    assert patches.undo() == ()
    *_, name = vars(torch.nn.GELU)
    method = vars(torch.nn.GELU)[name]
    monkeypatch.delattr(torch.nn.GELU, name)
    torch.nn.GELU.elsewhere = method
    try:
        assert patches.undo() == (f"torch.nn.modules.activation.GELU.{name}",)
        assert vars(torch.nn.GELU)[name] is method
    finally:
        del torch.nn.GELU.elsewhere


@pytest.mark.slow
def test_a_worker_process_that_cannot_be_put_back_is_replaced(tmp_path, alone):
    mixed = (*map(hostile, ("goes_on", "mode", "own_code", "python", "modules")), *HONEST)
    play(tmp_path / "run", mixed, [PLUGINS], workers=2)
    assert figures(tmp_path / "run") == alone
