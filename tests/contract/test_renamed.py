"""What records and suites said before is read in the words of now, and a user's own words stay."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from torch import Tensor

import robustsuite as rs
from robustsuite.access import WhiteBox
from robustsuite.core import RequestError, Streams, renamed
from robustsuite.core.suspicions import Suspicion
from robustsuite.evaluation.record_files import read
from robustsuite.evaluation.records import VERSION, Record
from robustsuite.plugins import attacks, defenses
from robustsuite.scenarios import SCENARIOS
from robustsuite.suite.load import load_suite

REPORTS = Path(__file__).parent.parent.parent / "reports"
OLD = {
    "key": "k", "order": 0, "suite": "s", "dataset": "d", "model": "m", "defense": "none", "attack": "adaptive",
    "scenario": "evasion", "knowledge": "scores", "closest": True, "attack_parameters": {"is": "adaptive", "steps": 15},
    "flags": ["lost-adversarial", "resolved:huge-radius", "not-adaptive"],
    "message": "followed up (huge-radius, not-adaptive): adaptive through identity backward broke 40 of 41, adaptive "
    "broke 1 of 2; the attack met adversarial inputs that it did not hand in",
    "cost": {"forwards": 3, "standing_forwards": 4, "escalation_backwards": 5},
    "recipe": {"objective": {"is": "AdversarialLoss", "attack": {"is": "adaptive"}}},
    "escalation": {
        "rules": "4164ad7a635c",
        "checks": {"huge-radius": "with no limit on the distance, 7 of 16 samples still stand"},
        "played": [{"attack": "adaptive", "knowledge": "labels", "through": "the part 'body' inside", "broke": 1}],
    },
}  # fmt: skip


def test_an_old_record_is_read_in_the_words_of_now():
    record = Record.parse(json.dumps(OLD))
    assert (record.knowledge, record.minimum_norm) == ("score-based", True)
    assert record.flags == ("found-not-returned", "resolved:unbounded-attack-fails", "not-adaptive", "outdated")
    assert record.cost == {"forwards": 3, "sanity_forwards": 4, "follow_up_backwards": 5}
    assert record.message == (
        "followed up (unbounded-attack-fails, not-adaptive): cascade through identity backward broke 40 of 41, cascade "
        "broke 1 of 2; the attack found adversarial inputs and did not return them"
    )
    assert record.attack_parameters["is"] == record.recipe["objective"]["attack"]["is"] == "cascade"
    assert record.review["checks"] == {
        "unbounded-attack-fails": "with no limit on the distance, 7 of 16 samples stay robust"
    }
    (played,) = record.review["played"]
    assert (played["attack"], played["knowledge"]) == ("cascade", "decision-based")
    assert played["through"] == "the submodule 'body'"
    assert Record.parse(record.line()).line() == record.line()


def test_a_record_of_now_is_read_as_it_is():
    """Also one whose message, of a stranger's code, holds what was a word before."""
    line = json.dumps({**OLD, "version": VERSION, "minimum_norm": True})
    record = Record.parse(line)
    assert record.flags == tuple(OLD["flags"])
    assert record.message == OLD["message"]
    raised = {**OLD, "status": "error", "message": "KeyError: 'huge-radius'"}
    assert Record.parse(json.dumps(raised)).message == raised["message"], "a traceback is what it is"


def read_of(folder, *attacks, suite="s", version=2):
    """Labels of records of one file, each given as label and name."""
    record = {**OLD, "suite": suite, "version": version}
    lines = [
        {**record, "key": label, "order": order, "attack": label, "attack_parameters": {"is": name}}
        for order, (label, name) in enumerate(attacks)
    ]
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [record.attack for record in read(folder / "records.jsonl")]


def test_a_label_is_renamed_where_it_was_the_name(tmp_path):
    assert read_of(tmp_path, ("adaptive", "adaptive"), ("pgd", "pgd")) == ["cascade", "pgd"]
    assert read_of(tmp_path, ("adaptive", "pgd"), ("mine", "adaptive")) == ["adaptive", "mine"]
    taken = (("cascade", "noise"), ("adaptive", "adaptive"))
    assert read_of(tmp_path, *taken) == ["cascade", "adaptive"], "two attacks never become one"
    made = (("adaptive(rounds=2)", "adaptive"), ("adaptive#2", "adaptive"))
    assert read_of(tmp_path, *made) == ["adaptive(rounds=2)", "adaptive#2"], "labels that a user chose in a suite"
    assert read_of(tmp_path, *made, suite="evaluate") == ["cascade(rounds=2)", "cascade#2"]
    assert read_of(tmp_path, ("adaptive", "cascade"), version=3) == ["adaptive"], "chosen when it was free"


@pytest.mark.parametrize(
    ("label", "known", "wanted"),
    [
        ("adaptive", {"cascade", "pgd"}, "cascade"),
        ("adaptive", {"cascade", "adaptive"}, "adaptive"),
        ("adaptive", {"pgd"}, "adaptive"),
        ("adaptive(rounds=3)", {"cascade(rounds=2)", "cascade(rounds=3)"}, "cascade(rounds=3)"),
        ("adaptively", {"cascadely"}, "adaptively"),
        ("", {"cascade"}, ""),
    ],
)
def test_a_gate_means_the_attack_that_it_named(label, known, wanted):
    assert renamed.label_of(label, known) == wanted


def test_an_attacks_own_option_is_not_taken_for_a_rule():
    assert renamed.options_of({"escalate": 1, "steps": 2}) == {"follow_up": 1, "steps": 2}
    assert renamed.options_of({"escalate": 1}, own={"escalate"}) == {"escalate": 1}


def test_what_it_is_called_now_is_there():
    assert all(name in {entry.name for entry in attacks.all()} for name in renamed.ATTACKS.values())
    assert all(old not in {entry.name for entry in attacks.all()} for old in renamed.ATTACKS)
    assert all(Suspicion.of(new) is not None and Suspicion.of(old) is None for old, new in renamed.FLAGS.items())
    accesses = {access for kind in SCENARIOS.values() for access in kind.accesses}
    assert set(renamed.ACCESSES.values()) <= accesses
    assert not set(renamed.ACCESSES) & accesses


def test_an_old_suite_and_its_gate_are_read(tmp_path):
    path = tmp_path / "old.yaml"
    head = "name: old\ndataset: {name: digits}\nmodel: {name: mlp}\nthreat: {norm: linf, radius: 0.1}\n"
    gate = "{attack: adaptive, metric: robust_accuracy, at_least: 0.1}"
    path.write_text(f"{head}attacks: [{{adaptive: {{escalate: false}}}}]\ngates: [{gate}]\n")
    (use,) = load_suite(str(path)).attacks
    assert (use.name, use.label, use.rules) == ("cascade", "cascade", {"follow_up": False})
    assert rs.attack("adaptive", rounds=2) == rs.attack("cascade", rounds=2)
    for listed, wanted in (
        ("{pgd: {label: adaptive}}", [("pgd", "adaptive")]),
        ("{noise: {label: cascade}}, adaptive", [("noise", "cascade"), ("cascade", "adaptive")]),
        ("{cascade: {label: adaptive}}", [("cascade", "adaptive")]),
        ("{adaptive: {label: mine}}", [("cascade", "mine")]),
    ):
        path.write_text(f"{head}attacks: [{listed}]\n")
        assert [(use.name, use.label) for use in load_suite(str(path)).attacks] == wanted


@pytest.mark.parametrize("name", sorted(path.name for path in REPORTS.iterdir() if path.is_dir()))
def test_published_records_hold_no_old_word_once_read(name):
    tables = (renamed.ATTACKS, renamed.ACCESSES, renamed.FIELDS, renamed.COSTS)
    whole = [f'"{old}"' for table in tables for old in table]
    for line in (REPORTS / name / "records.jsonl").read_text().splitlines():
        shown = replace(Record.parse(line), samples="", attack="").line()
        assert not [old for old in (*whole, *renamed.TEXTS) if old in shown]


def test_an_old_name_is_nobody_elses():
    with pytest.raises(RequestError, match="which 'cascade' was called before"):

        @rs.register.attack("adaptive", scenario="evasion", access="white-box")
        @dataclass(frozen=True)
        class Mine:
            """An attack."""

            def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
                """Nothing."""
                return view.x

    with pytest.raises(RequestError, match="got defense='adaptive'"):
        defenses.get("adaptive")
