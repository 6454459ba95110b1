"""A key holds the core once, and of plug-ins the files of those that take part."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from robustsuite.evaluation.record_files import read
from robustsuite.plugins import provenance, registry
from robustsuite.plugins.local_code import looked_up
from robustsuite.storage.store import Store

ROOT = Path(__file__).parents[2]
SUITE = """
name: keys
dataset: {name: digits, train: 500, test: 20}
model: {name: logistic}
training: {epochs: 1, batch_size: 32}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
defenses: [none, input-validation]
attacks: [noise, fgsm, {pgd: {steps: 3}}, {pgd: {steps: 3, follow_up: false, label: alone}}, autoattack, badnets]
"""
# Keys of a plan after each edit of a copied tree, as processes of their own would make them.
SCRIPT = """
import importlib, json, sys
from pathlib import Path
import robustsuite
root = Path(robustsuite.__file__).parent
assert root == Path(sys.argv[1]) / "robustsuite", root
from robustsuite.plugins import local_code, provenance, registry
from robustsuite.runner.plan import plan
from robustsuite.suite.load import load_suite
assert Path(registry.attacks.get("pgd").cls.__init__.__globals__.get("__file__", root)).is_relative_to(root)

def keys():
    for cached in (provenance.code, local_code._installed_digest, local_code._installed_look_ups):
        cached.cache_clear()
    found = plan(load_suite(sys.argv[2]), "cpu")
    return {
        **{f"{c.defense.label} x {c.attack.label}": c.content for c in found.cells},
        **{f"training {n.label} {n.kind}": n.key for n in found.nodes if n.kind != "cell"},
    }

def edited(place, text="# a comment\\n"):
    path = root / place
    before = path.read_bytes() if path.exists() else None
    path.write_bytes((before or b"") + text.encode())
    if before is None:
        importlib.invalidate_caches()
        importlib.import_module("robustsuite." + place[:-3].replace("/", "."))
    found = keys()
    if before is not None:
        path.write_bytes(before)
    return sorted(name for name in start if start[name] != found[name])

NEW = '''
from dataclasses import dataclass
from robustsuite.plugins import register
@register.attack("new-{name}", scenario="evasion", access="white-box", resolves={resolves})
@dataclass(frozen=True, kw_only=True)
class New:
    \\"\\"\\"Nothing.\\"\\"\\"
    def __call__(self, view, streams):
        return view.x
'''
start = keys()
told = {"all": sorted(start), "nothing": edited("attacks/evasion/pgd.py", "")}
for place in (*(f"attacks/evasion/{name}.py" for name in ("noise", "fgsm", "square", "fab")),
              "attacks/poisoning/badnets.py", "defenses/input_validation.py", "core/losses.py", "report/page.py"):
    told[place] = edited(place)
told["new"] = edited("attacks/evasion/brand_new.py", NEW.format(name="one", resolves=()))
told["new that resolves"] = edited("attacks/evasion/brand_newer.py", NEW.format(name="two", resolves=("unconverged",)))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """Which keys are others after an edit, by the file."""
    home = tmp_path_factory.mktemp("tree")
    for name, place in (("robustsuite", ""), ("attacks", "robustsuite/"), ("defenses", "robustsuite/")):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, home / f"{place}{name}", ignore=ignored, dirs_exist_ok=True)
    (home / "keys.yaml").write_text(SUITE)
    environment = {**os.environ, "PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(home), str(home / "keys.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def cells(*attacks, defenses=("none", "input-validation")):
    return {f"{defense} x {attack}" for defense in defenses for attack in attacks}


def test_a_comment_in_an_attack_changes_its_own_cells_and_those_that_it_may_follow_up(changed):
    assert changed["nothing"] == []
    assert set(changed["attacks/evasion/noise.py"]) == cells("noise")
    assert set(changed["attacks/evasion/fgsm.py"]) == cells("fgsm")
    # AutoAttack is made of it; pgd and AutoAttack may be followed up by it, and by `cascade`, which is made of it too.
    assert set(changed["attacks/evasion/square.py"]) == cells("pgd", "autoattack")
    assert set(changed["attacks/evasion/fab.py"]) == cells("autoattack"), "it is looked up by its name"


def test_a_poisoners_file_changes_what_is_crafted_and_retrained_from_it(changed):
    found = set(changed["attacks/poisoning/badnets.py"])
    assert {name for name in found if " x " in name and not name.startswith("training ")} == cells("badnets")
    assert {name.split()[-1] for name in found - cells("badnets")} == {"artefact", "retraining"}


def test_a_defence_changes_its_own_row(changed):
    found = set(changed["defenses/input_validation.py"])
    row = {name for name in changed["all"] if name.startswith("input-validation x ")}
    assert found >= row
    assert not {name for name in found if name.startswith("none x ")}


def test_a_new_attack_changes_nothing_unless_a_review_may_start_it(changed):
    assert changed["new"] == []
    assert set(changed["new that resolves"]) == cells("pgd", "autoattack")


def test_the_core_changes_all_and_what_only_shows_nothing(changed):
    assert changed["core/losses.py"] == changed["all"]
    assert changed["report/page.py"] == []


def test_what_a_plugin_looks_up_by_name_is_found():
    from robustsuite.attacks.evasion import autoattack

    assert ("attacks", "fab") in looked_up(autoattack.__file__)
    names = provenance.sources(registry.attacks.get("autoattack").cls)
    assert "robustsuite.attacks.evasion.fab.FAB" in names


def test_a_strangers_file_holds_the_built_ins_that_it_imports(tmp_path):
    from robustsuite.plugins.local_code import followed

    (tmp_path / "mine.py").write_text(
        "from robustsuite.attacks.evasion.pgd import PGD\nimport robustsuite.core.losses\n"
    )
    assert {path.name for path in followed(tmp_path / "mine.py")} == {"mine.py"}
    found = {path.name for path in followed(tmp_path / "mine.py", plugins=True)}
    assert {"mine.py", "pgd.py"} <= found
    assert "losses.py" not in found


def test_what_was_made_beside_strangers_code_is_not_taken_by_who_has_none(tmp_path):
    clean, mixed, other = (Store(tmp_path, beside=beside) for beside in ("", "abc", "def"))
    mixed.put("cells", "k", {"from": "mixed"})
    assert mixed.has("cells", "k")
    assert not clean.has("cells", "k")
    assert not other.has("cells", "k")
    assert clean.get("cells", "k") is other.get("cells", "k") is None
    clean.put("cells", "k", {"from": "clean"})
    mixed.put("cells", "k", {"from": "mixed"})
    for store in (clean, mixed, other, Store(tmp_path)):
        assert store.get("cells", "k").facts == {"from": "clean"}
        assert store.notes == []


def test_records_say_which_strangers_code_was_loaded(tmp_path):
    from robustsuite.runner.run import run
    from robustsuite.suite.load import load_suite

    plugin = Path(__file__).parents[1] / "faults" / "fault_plugins.py"
    (tmp_path / "s.yaml").write_text(SUITE.replace("[none, input-validation]", "[none]").split("attacks:")[0])
    run(load_suite(tmp_path / "s.yaml", [], [str(plugin)]), tmp_path / "run", cached=False)
    (record,) = read(tmp_path / "run" / "records.jsonl")
    told = record.environment["foreign"]
    own = [digest for name, digest in told.items() if name.startswith("robustsuite_plugin_fault_plugins.")]
    assert own
    assert all(own)


PANEL = '''
from dataclasses import dataclass

from robustsuite.core import Scores
from robustsuite.plugins import register


@register.panel("of-a-stranger")
@dataclass(frozen=True, kw_only=True)
class Panel:
    """Nothing."""

    asks = Scores

    def __call__(self, exhibits):
        """Nothing."""
'''


def test_a_strangers_panel_is_strangers_code_too(tmp_path):
    (tmp_path / "of_a_stranger.py").write_text(PANEL)
    assert not any("of_a_stranger" in name for name in provenance.foreign())
    before = dict(registry.panels._entries)
    try:
        registry.load_file(tmp_path / "of_a_stranger.py")
        told = {name: at for name, at in provenance.foreign().items() if "of_a_stranger" in name}
    finally:
        registry.panels._entries = before
    assert len(told) == 1
    assert all(told.values())
    assert not any("of_a_stranger" in name for name in provenance.foreign())
