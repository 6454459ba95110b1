"""The templates of CONTRIBUTING.md are plug-ins that work: loaded as files, held to the laws, played in a suite."""

import re
from pathlib import Path

import pytest

from robustsuite.plugins import registry
from robustsuite.runner.run import run
from robustsuite.suite.load import load_suite
from robustsuite.testing import attack_laws, defense_laws

TEXT = (Path(__file__).parent.parent.parent / "CONTRIBUTING.md").read_text()
SUITE = """
name: templates
plugins: [my_attack.py, my_defence.py]
dataset: {name: digits, train: 400, test: 60}
model: {name: mlp, hidden: [32]}
training: {epochs: 8, batch_size: 32, lr: 0.005}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
defenses: [none, {my-defence: {width: 0.2}}]
attacks: [noise, {my-attack: {follow_up: false}}, {pgd: {steps: 10, follow_up: false}}]
"""


def template(section):
    """The one code block of this section."""
    below = TEXT.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    (block,) = re.findall(r"```python\n(.*?)```", below, re.DOTALL)
    return block


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    registry.discover()
    known = {kind: dict(kind._entries) for kind in (registry.attacks, registry.defenses)}
    where = tmp_path_factory.mktemp("templates")
    for name, section in (("my_attack.py", "An attack"), ("my_defence.py", "A defence")):
        (where / name).write_text(template(section))
        registry.load_file(where / name)
    yield where
    for kind, entries in known.items():
        kind._entries.clear()
        kind._entries.update(entries)


# The names of the laws do not depend on the plug-in; the laws themselves look it up when they are called.
@pytest.mark.parametrize("law", [law.name for law in attack_laws("pgd")])
def test_the_attack_keeps_the_laws(law):
    (found,) = [kept for kept in attack_laws("my-attack", steps=4) if kept.name == law]
    found()


@pytest.mark.parametrize("law", [law.name for law in defense_laws("adversarial-training")])
def test_the_defence_keeps_the_laws(law):
    (found,) = [kept for kept in defense_laws("my-defence") if kept.name == law]
    found()


def test_they_play_in_a_suite(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "s.yaml").write_text(SUITE)
    records = run(load_suite("s.yaml"), folder / "run", device="cpu", cached=False).records
    assert {record.status for record in records} == {"ok"}, [record.message for record in records]
    robust = {(r.defense, r.attack): r.metrics["robust_accuracy"].value for r in records if r.attack != "none"}
    for defense in ("none", "my-defence"):
        assert robust[defense, "my-attack"] < robust[defense, "noise"] - 0.1
        assert abs(robust[defense, "my-attack"] - robust[defense, "pgd"]) <= 0.15
