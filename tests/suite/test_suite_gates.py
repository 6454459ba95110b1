"""`gates:` in a suite: what it means, every mistake with its line, and what a run's folder keeps of it."""

import re
from pathlib import Path

import pytest
from loading import load

from robustsuite.core.errors import RequestError
from robustsuite.core.gate import Gate
from robustsuite.evaluation.record_files import read
from robustsuite.results import gates
from robustsuite.scenarios import SCENARIOS, declared_by
from robustsuite.suite.gates import gives, places

pytestmark = pytest.mark.usefixtures("working_folder")
REPORTS = Path(__file__).parent.parent.parent / "reports"
HEAD = """\
name: demo
dataset: {name: digits, test: 100}
model: {name: mlp, hidden: [16]}
threat: {norm: linf, radius: 8/255}
defenses: [none, input-validation]
attacks: [fgsm, pgd, badnets]
gates:
"""


def test_as_mapping_and_as_text():
    suite = load(
        HEAD
        + "  - {defense: input-validation, attack: pgd, metric: robust_accuracy, at_least: 1/3}\n"
        + "  - worst-case:robust_accuracy>=0.25\n"
        + "  - {metric: backdoor_success_rate, at_most: 0}\n"
        + "  - parameters<=100000\n"
    )
    assert suite.gates == (
        Gate(defense="input-validation", attack="pgd", metric="robust_accuracy", at_least=1 / 3),
        Gate(attack="worst-case", metric="robust_accuracy", at_least=0.25),
        Gate(metric="backdoor_success_rate", at_most=0.0),
        Gate(metric="parameters", at_most=100000.0),
    )
    assert [str(gate) for gate in suite.gates] == [
        "input-validation/pgd:robust_accuracy>=0.3333333333333333",
        "worst-case:robust_accuracy>=0.25",
        "backdoor_success_rate<=0",
        "parameters<=100000",
    ]


def test_a_run_keeps_its_gates(tmp_path):
    suite = load(HEAD + "  - {defense: none, attack: pgd, metric: robust_accuracy, at_least: 1/3}\n  - epsilon<=3\n")
    text = suite.to_yaml()
    assert load(text).gates == suite.gates
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "suite.yaml").write_text(text)
    assert gates.load(tmp_path / "run") == suite.gates


def test_no_gates():
    suite = load(HEAD.removesuffix("gates:\n"))
    assert suite.gates == ()
    assert "gates" not in suite.to_yaml()
    assert gates.load(".") == ()


def test_overrides_reach_gates():
    suite = load(HEAD + "  - {attack: pgd, metric: robust_accuracy, at_least: 0.4}\n", "gates.0.at_least=0.2")
    assert suite.gates[0].at_least == 0.2
    assert load(HEAD + "  []\n", "gates=[pgd:robust_accuracy>=0.1]").gates[0].attack == "pgd"


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        (
            "{attack: pdg, metric: robust_accuracy, at_least: 0.4}",
            "gates[0].attack: .*attack='pdg'; did you mean 'pgd'",
        ),
        (
            "{defense: inputvalidation, metric: clean_accuracy, at_least: 0.4}",
            "gates[0].defense: .*did you mean 'input-validation'",
        ),
        ("{metric: robust_acuracy, at_least: 0.4}", "gates[0].metric: .*did you mean 'robust_accuracy'"),
        (
            "{attack: badnets, metric: robust_accuracy, at_least: 0.4}",
            "gates[0].metric: .*a metric of 'badnets', which plays poisoning, got metric='robust_accuracy'",
        ),
        ("{attack: worst-case, metric: distance_median, at_least: 0.4}", "gates[0].metric: .*'worst-case'"),
        ("{metric: inversion_ssim, at_most: 0.4}", "gates[0].metric: .*a metric that is measured"),
        (
            "{metric: robust_accuracy, at_least: 40}",
            r"gates[0].at_least: .*\[0, 1\].*at_least=40.0; 40 % is written 0.4",
        ),
        ("{metric: accuracy_drop, at_most: 2}", r"gates[0].at_most: .*\[-1, 1\]"),
        ("{metric: robust_accuracy, at_least: lots}", "gates[0].at_least: expected a number or a quotient"),
        ("{metric: robust_accuracy, at_least: .nan}", "gates[0].at_least: expected a number"),
        ("{metric: robust_accuracy, at_least: true}", "gates[0].at_least: "),
        ("{metric: robust_accuracy}", "either at_least or at_most, got metric='robust_accuracy'"),
        ("{metric: robust_accuracy, at_least: 0.1, at_most: 0.9}", "gates[0].at_most: .*a floor and a ceiling are two"),
        ("{at_least: 0.1}", "gates[0]: expected a gate with metric"),
        ("{metric: robust_accuracy, atleast: 0.4}", "gates[0].atleast: .*did you mean 'at_least'"),
        ("robust_accuracy > 0.4", "gates[0]: expected a gate such as 'robust_accuracy>=0.4'"),
        ("pdg:robust_accuracy>=0.4", "gates[0].attack: .*did you mean 'pgd'"),
        ("3", "gates[0]: expected a mapping of settings"),
    ],
)
def test_a_mistake_is_named_with_its_line(gate, told):
    with pytest.raises(RequestError) as caught:
        load(HEAD + f"  - {gate}\n")
    pattern = r"s\.yaml:8: " + ("" if "gates[0]" in told else ".*") + told.replace("gates[0]", r"gates\[0\]")
    assert "nothing was started" in str(caught.value)
    assert re.search(pattern, str(caught.value)), str(caught.value)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(RequestError) as caught:
        load(HEAD + "  - pdg:robust_accuracy>=0.4\n  - fgsm:robust_accuracy>=4\n  - epsilon<=3\n  - epsilon<=3\n")
    told = str(caught.value)
    assert "s.yaml has 3 problems" in told
    assert "s.yaml:11: gates[3]: expected each gate once, got epsilon<=3 again" in told


def test_the_worst_case_needs_an_evasion_attack():
    with pytest.raises(RequestError, match="attack='worst-case'; allowed: none, badnets"):
        load(HEAD.replace("fgsm, pgd, badnets", "badnets") + "  - worst-case:robust_accuracy>=0.2\n")
    assert places([("a", "evasion"), ("b", "evasion")]) == {
        "none": ("utility",),
        "a": ("evasion",),
        "b": ("evasion",),
        "worst-case": ("evasion",),
    }


def test_every_game_says_which_metrics_it_gives():
    """Held to the published runs, in which every game was really played."""
    published = [record for path in sorted(REPORTS.glob("*/**/records.jsonl")) for record in read(path)]
    assert {record.scenario for record in published} == set(SCENARIOS) - {"targeted-poisoning"}  # no built-in plays it
    for record in published:
        for name, figure in record.metrics.items():
            spec = SCENARIOS[record.scenario].metrics[name]
            unit = record.norm if spec.unit == "distance" else spec.unit
            assert (figure.unit, figure.better) == (unit, spec.better), (record.scenario, name)
            assert spec.words
    assert set(gives(declared_by("evasion"), "worst-case")) == {"robust_accuracy"}


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("robust_accuracy>=0.4", Gate(metric="robust_accuracy", at_least=0.4)),
        (" robust_accuracy  <= 1e-3 ", Gate(metric="robust_accuracy", at_most=0.001)),
        (
            "art:HopSkipJump:robust_accuracy>=8/255",
            Gate(metric="robust_accuracy", attack="art:HopSkipJump", at_least=8 / 255),
        ),
        ("pgd(steps=5): robust_accuracy>=0.4", Gate(metric="robust_accuracy", attack="pgd(steps=5)", at_least=0.4)),
        ("membership_tpr_at_fpr_0.001<=0.01", Gate(metric="membership_tpr_at_fpr_0.001", at_most=0.01)),
        ("accuracy_drop>=-0.01", Gate(metric="accuracy_drop", at_least=-0.01)),
    ],
)
def test_text_forms(text, gate):
    assert Gate.parse(text) == gate
    assert Gate.parse(str(gate)) == gate


@pytest.mark.parametrize(
    "text", ["", "robust_accuracy", "robust_accuracy=0.4", "robust accuracy>=0.4", "a:b:>=3", ">=3"]
)
def test_no_gates_at_all(text):
    with pytest.raises(RequestError, match="expected a gate such as"):
        Gate.parse(text)


def test_gates_of_an_evaluation_stand_in_a_file_of_their_own(tmp_path):
    asked = (Gate(metric="robust_accuracy", attack="pgd", at_least=1 / 3), Gate(metric="epsilon", at_most=3.0))
    gates.save(tmp_path, asked)
    assert gates.load(tmp_path) == asked
    gates.save(tmp_path, ())
    assert gates.load(tmp_path) == ()
    assert list(tmp_path.iterdir()) == [] or [p.name for p in tmp_path.iterdir()] == ["s.yaml"]


@pytest.mark.parametrize("text", ["{", "[3]", '[{"metric": "x"}]', '"robust"'])
def test_a_file_of_gates_that_was_changed_is_named(tmp_path, text):
    (tmp_path / "gates.json").write_text(text)
    with pytest.raises(RequestError, match=r"gates\.json"):
        gates.load(tmp_path)


def test_what_is_wrong_with_a_whole_file_of_gates_has_no_path(tmp_path):
    (tmp_path / "gates.json").write_text('"robust"')
    with pytest.raises(RequestError, match=r"gates\.json; expected a list, got gates='robust'"):
        gates.load(tmp_path)
