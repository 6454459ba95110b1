from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import junitparser
import pytest
import xmlschema
from two_runs import add_to_suite

from robustsuite.report.export.junit import junit
from robustsuite.report.files import write
from robustsuite.results.results import Results

SCHEMA = xmlschema.XMLSchema(str(Path(__file__).parent / "junit.xsd"))
GATES = """\
gates:
- {defense: adversarial-training, attack: pgd, metric: robust_accuracy, at_least: 0.5}
- {defense: none, attack: pgd, metric: robust_accuracy, at_least: 0.5}
- {defense: adversarial-training, attack: pgd, metric: robust_accuracy, at_least: 0.78}
"""
NASTY = "a\x00b\x1b[31m\x0b\ud800\ufffe<&>\"'\n\U0001f600"


@pytest.fixture
def gated(run):
    add_to_suite(run.folder, GATES)
    return run


def tree(folder):
    (path,) = write(folder, formats=("junit",))
    SCHEMA.validate(str(path))
    return ET.parse(path).getroot()


def cases(root):
    return {(case.get("classname"), case.get("name")): case for case in root.iter("testcase")}


def properties(element):
    return {p.get("name"): p.get("value") for p in element.findall("properties/property")}


def test_the_schema_refuses_what_ci_servers_trip_over(gated):
    whole = ET.tostring(tree(gated.folder))
    for spoil in (
        lambda root: root[0].set("failures", "many"),
        lambda root: root[0].set("timestamp", "yesterday"),
        lambda root: root[0].find("testcase").attrib.pop("name"),
        lambda root: ET.SubElement(root[0].find("testcase"), "verdict"),
    ):
        root = ET.fromstring(whole)
        assert SCHEMA.is_valid(ET.ElementTree(root))
        spoil(root)
        assert not SCHEMA.is_valid(ET.ElementTree(root))


def test_a_parser_of_others_reads_the_same_counts(gated):
    (path,) = write(gated.folder, formats=("junit",))
    read = junitparser.JUnitXml.fromfile(str(path))
    # 3 gates; 5 defences with a clean evaluation, 3 evasions, 2 poisonings and an inversion each
    assert (read.tests, read.errors, read.failures, read.skipped) == (38, 1, 2, 2)
    counted = (read.tests, read.errors, read.failures, read.skipped)
    read.update_statistics()
    assert counted == (read.tests, read.errors, read.failures, read.skipped)
    assert read.time == pytest.approx(35 * 1.5)  # `update_statistics` adds up test cases, which have no curve points
    root = ET.parse(path).getroot()
    assert float(root.get("time")) == pytest.approx(1.5 * len(gated.records))


def test_gates_have_three_outcomes(gated):
    found = {
        name: case for (owner, name), case in cases(tree(gated.folder)).items() if owner == "digits-defences.gates"
    }
    passed, failed, open_ = found.values()
    assert list(found)[1] == "pgd:robust_accuracy>=0.5"
    assert passed.find("failure") is None
    assert properties(passed) == {"outcome": "passed"}
    assert failed.find("failure").get("type") == "failed"
    assert "0.000" in failed.find("failure").get("message")
    assert open_.find("failure").get("type") == "inconclusive"
    assert "more samples would probably settle it" in open_.find("failure").text


def test_a_cell_that_raised_is_an_error_with_its_traceback(run):
    found = cases(tree(run.folder))
    error = found["digits-defences.dp-sgd", "badnets"].find("error")
    assert (error.get("type"), error.get("message")) == ("ValueError", "ValueError: no <rows> left")
    assert "line 41, in __call__" in error.text
    skipped = {
        key: case.find("skipped").get("message") for key, case in found.items() if case.find("skipped") is not None
    }
    assert skipped == {
        ("digits-defences.input-validation", "model-inversion"): "not_applicable: expected train data",
        (
            "digits-defences.input-validation+adversarial-training",
            "model-inversion",
        ): "inconclusive: the evaluator is weak",
    }


def test_cells_carry_their_figures(run):
    found = cases(tree(run.folder))
    case = found["digits-defences.none", "pgd"]
    told = properties(case)
    record = next(r for r in run.records if (r.defense, r.attack, r.radius) == ("none", "pgd", 0.3))
    assert (told["key"], told["seed"], told["status"], told["radius"]) == (record.key, "0", "ok", "0.3")
    assert float(told["robust_accuracy"]) == record.metrics["robust_accuracy"].value
    assert float(told["robust_accuracy.high"]) == record.metrics["robust_accuracy"].high
    assert case.get("time") == "1.500"
    assert case.find("system-out").text.startswith("robust_accuracy 0.000 [0.000, 0.018] on 200 samples")
    suite = properties(tree(run.folder)[0])
    assert (suite["model"], suite["torch"]) == ("cnn", "2.15.0")


def test_points_of_a_curve_stand_with_their_cell_unless_they_raised(run):
    found = cases(tree(run.folder))
    assert not [name for _, name in found if " at " in name]
    told = properties(found["digits-defences.none", "pgd"])
    assert 0 < float(told["robust_accuracy at linf 0.2"]) < float(told["robust_accuracy at linf 0.1"]) < 1
    run.add("none", "pgd", "evasion", norm="linf", radius=0.4, status="error", message="RuntimeError: out of memory")
    lost = cases(tree(run.folder))["digits-defences.none", "pgd at linf 0.4"]
    assert lost.find("error").get("type") == "RuntimeError"


def test_repeats_have_a_number_and_suites_a_test_suite(maker):
    for repeat in (0, 1):
        maker.add("none", "fgsm", "evasion", repeat=repeat, norm="linf", radius=0.1)
    maker.add("none", "none", "utility", suite="other")
    root = tree(maker.folder)
    assert [suite.get("name") for suite in root] == ["digits-defences", "other"]
    assert [name for _, name in cases(root)] == ["fgsm #0", "fgsm #1", "clean evaluation"]


def test_no_text_of_a_record_can_break_the_file(maker):
    record = maker.add("none", "none", "utility", status="error", message="plain")
    evil = replace(record, defense=NASTY, attack=NASTY, message=NASTY, suite=NASTY, environment={NASTY: NASTY})
    text = junit(maker.folder, Results([evil]))
    assert SCHEMA.is_valid(text)
    case = ET.fromstring(text.encode()).find("testsuite/testcase")
    assert case.find("error").text == "ab[31m<&>\"'\n\U0001f600"


def test_the_machine_is_not_named(run):
    import socket

    text = write(run.folder, formats=("junit",))[0].read_text()
    assert f'hostname="{socket.gethostname()}"' not in text or socket.gethostname() == "localhost"
