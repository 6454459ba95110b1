import json
import math
from dataclasses import replace

import pytest
import torch

from robustsuite.core.intervals import interval
from robustsuite.core.metric import Metric
from robustsuite.evaluation.record_files import read, save_samples
from robustsuite.evaluation.records import Record
from robustsuite.report.files import csv
from robustsuite.results.frame import COLUMNS, tidy
from robustsuite.results.results import Results

CONTRACT = (
    "suite,dataset,model,defense,attack,scenario,knowledge,norm,radius,repeat,metric,value,low,high,n,unit,better,status,"
    "flags,message,seconds,key"
)


def test_columns_are_the_contract(run):
    frame = Results(run.records, run.folder).frame
    assert csv(frame).splitlines()[0] == CONTRACT
    assert ",".join(COLUMNS) == CONTRACT


def test_rows_stand_in_plan_order_whatever_the_order_of_execution(run):
    straight = csv(Results(run.records, run.folder).frame)
    assert csv(Results(list(reversed(run.records)), run.folder).frame) == straight
    assert csv(Results(read(run.folder / "records.jsonl"), run.folder).frame) == straight


def test_headline_is_the_first_row_of_its_record_although_json_sorts_names(run):
    frame = tidy(read(run.folder / "records.jsonl"))
    heads = frame.drop_duplicates("key")
    assert set(heads[heads.scenario == "evasion"].metric) == {"robust_accuracy"}
    assert set(heads[heads.attack == "badnets"].metric) == {"backdoor_success_rate", ""}


@pytest.mark.parametrize("status", ["error", "not_applicable", "not_run"])
def test_missing_is_one_empty_row_and_not_0(maker, status):
    maker.add("none", "pgd", "evasion", status=status, message="Traceback\n  somewhere\nValueError: why")
    frame = tidy(maker.records)
    assert len(frame) == 1
    assert math.isnan(frame.value[0])
    assert math.isnan(frame.low[0])
    assert frame.status[0] == status
    fields = dict(zip(CONTRACT.split(","), csv(frame).splitlines()[1].split(","), strict=True))
    assert fields["value"] == fields["low"] == fields["high"] == fields["n"] == ""
    assert "ValueError: why" in fields["message"]
    assert "\n" not in frame.message[0]


def test_headline_that_could_not_be_measured_keeps_its_row(maker):
    maker.add("none", "pgd", "evasion", headline="robust_accuracy", metrics={"clean_accuracy": Metric(0.5, 2)})
    frame = tidy(maker.records)
    assert list(frame.metric) == ["robust_accuracy", "clean_accuracy"]
    assert math.isnan(frame.value[0])
    assert frame.value[1] == 0.5


def test_counted_passes_are_rows(maker):
    maker.add("none", "pgd", "evasion", headline="a", metrics={"a": Metric(1.0)}, cost={"forwards": 80, "queries": 0})
    frame = tidy(maker.records)
    assert list(frame.metric) == ["a", "forwards"]
    assert frame.value[1] == 80


def halves(maker, **second):
    clean = torch.ones(100, dtype=torch.bool)
    first = torch.arange(100) < 50
    maker.evasion("none", "fgsm", clean, first, images=False, flags=("zero-gradients",))
    maker.evasion("none", "pgd", clean, ~first, images=False, **second)
    return Results(maker.records, maker.folder).frame


def test_two_attacks_that_break_disjoint_halves_leave_nothing(maker):
    frame = halves(maker, flags=("few-samples",))
    worst = frame[frame.attack == "worst-case"].iloc[0]
    assert list(frame[(frame.metric == "robust_accuracy")].value) == [0.5, 0.5, 0.0]
    assert (worst.scenario, worst.metric, worst.unit, worst.better) == ("evasion", "robust_accuracy", "rate", "higher")
    assert (worst.n, worst.norm, worst.radius, worst.status) == (100, "linf", 0.3, "ok")
    assert (worst.low, worst.high) == interval(0, 100)
    assert worst["flags"] == "zero-gradients;few-samples"
    assert frame.attack.iloc[-1] == "worst-case"


def test_worst_case_joins_by_sample_id_and_not_by_row(maker):
    clean = torch.ones(4, dtype=torch.bool)
    maker.evasion("none", "fgsm", clean, torch.tensor([True, True, False, False]), images=False)
    record = maker.evasion("none", "pgd", clean, clean, images=False)
    turned = {"id": torch.tensor([3, 2, 1, 0]), "robust": torch.tensor([True, True, False, False])}
    path, digest = save_samples(maker.folder, record.key, turned)
    records = [maker.records[0], replace(record, samples=path, samples_digest=digest)]
    frame = Results(records, maker.folder).frame
    assert frame[frame.attack == "worst-case"].value.iloc[0] == 0.0


def test_worst_case_is_inconclusive_where_a_joined_attack_is(maker):
    frame = halves(maker, status="inconclusive", message="the attack found inputs that it did not return")
    worst = frame[frame.attack == "worst-case"].iloc[0]
    assert worst.status == "inconclusive"
    assert "pgd" in worst.message


def test_worst_case_says_which_attack_failed(maker):
    clean = torch.ones(100, dtype=torch.bool)
    maker.evasion("none", "fgsm", clean, clean, images=False)
    maker.add("none", "pgd", "evasion", norm="linf", radius=0.3, status="error", message="boom")
    frame = Results(maker.records, maker.folder).frame
    worst = frame[frame.attack == "worst-case"].iloc[0]
    assert worst.value == 1.0
    assert worst.status == "inconclusive"
    assert "pgd is not part of it (error)" in worst.message


def test_one_attack_has_a_verdict_at_the_suites_radius_and_points_of_a_curve_need_two(maker):
    clean = torch.ones(10, dtype=torch.bool)
    maker.evasion("none", "pgd", clean, clean, images=False)
    maker.evasion("none", "pgd", clean, clean, radius=0.1, images=False)
    frame = Results(maker.records, maker.folder).frame
    assert set(frame[frame.attack == "worst-case"].radius) == {0.3}


def test_curve_at_the_main_radius_on_fewer_samples_does_not_shrink_the_worst_case(maker):
    clean = torch.ones(100, dtype=torch.bool)
    for n in (100, 20):
        for attack in ("fgsm", "pgd"):
            maker.evasion("none", attack, clean[:n], clean[:n], images=False)
    worst = Results(maker.records, maker.folder).frame.query("attack == 'worst-case'")
    assert set(worst.n) == {100}


def test_worst_case_without_its_files_is_no_number(run):
    for path in (run.folder / "samples").iterdir():
        path.unlink()
    worst = Results(run.records, run.folder).frame.query("attack == 'worst-case'")
    assert len(worst)
    assert worst.value.isna().all()
    assert (worst.status != "ok").all()


EXAMINED = {"rules": "some"}


@pytest.mark.parametrize(
    ("strong", "left", "status"),
    [
        ({"review": EXAMINED}, 40, "ok"),
        ({"review": EXAMINED}, 60, "inconclusive"),  # it is no stronger
        ({}, 40, "inconclusive"),  # nobody has examined it
        ({"review": EXAMINED, "flags": ("zero-gradients",)}, 40, "inconclusive"),
        ({"review": EXAMINED, "flags": ("few-samples", "resolved:zero-gradients")}, 40, "ok"),
    ],
)
def test_the_doubt_about_a_weaker_attack_does_not_withhold_what_a_stronger_one_left(maker, strong, left, status):
    """A doubt about an attack says that it may have broken too little; an examined one that broke more answers it."""
    clean = torch.ones(100, dtype=torch.bool)
    weak = {"status": "inconclusive", "message": "unresolved", "flags": ("not-adaptive", "short-of-radius")}
    maker.evasion("none", "fgsm", clean, torch.arange(100) < 50, images=False, **weak)
    maker.evasion("none", "pgd", clean, torch.arange(100) < left, images=False, **strong)
    verdict = Results(maker.records, maker.folder).frame.query("attack == 'worst-case'").iloc[0]
    assert verdict.status == status
    assert verdict.value == min(left, 50) / 100
    assert ("not-adaptive" in verdict["flags"]) == (status != "ok")
    assert "short-of-radius" in verdict["flags"], "which withholds nothing"


def test_the_verdict_says_by_whom_samples_were_broken(maker):
    clean = torch.arange(10) > 0
    own, verdict = clean & (torch.arange(10) > 3), clean & (torch.arange(10) > 7)
    columns = {"id": torch.arange(10), "clean_correct": clean, "robust": own, "verdict": verdict}
    columns |= {"found_by": torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 0, 0]), "distance": torch.zeros(10)}
    examined = {"rules": "some", "played": [{"attack": "sanity checks"}, {"attack": "bpda"}]}
    maker.evasion("none", "fgsm", clean, clean & (torch.arange(10) != 5), images=False)
    given = {"norm": "linf", "radius": 0.3, "headline": "robust_accuracy", "knowledge": "white-box"}
    maker.add("none", "pgd", "evasion", columns, review=examined, **given)
    frame = Results(maker.records, maker.folder).frame.query("attack == 'worst-case'")
    assert list(zip(frame.metric, frame.value, strict=True)) == [("robust_accuracy", 0.2), ("robust_accuracy_own", 0.5)]
    told = "broken by fgsm 1, pgd 3, sanity checks after pgd 1, bpda after pgd 2"
    assert set(frame.message) == {told}, "the first that did, alone where one could; what was misclassified is nobody's"


def test_what_was_measured_before_results_were_examined_is_outdated(maker):
    clean = torch.ones(100, dtype=torch.bool)
    maker.utility("none", clean)
    maker.evasion("none", "pgd", clean, clean, images=False)
    now = [json.loads(record.line()) for record in maker.records]
    old = [{name: value for name, value in record.items() if name != "version"} for record in now]
    assert [Record.parse(json.dumps(record)).flags for record in now] == [(), ()]
    assert [Record.parse(json.dumps(record)).flags for record in old] == [(), ("outdated",)]
    frame = Results([Record.parse(json.dumps(record)) for record in old], maker.folder).frame
    assert set(frame[frame.scenario == "evasion"]["flags"]) == {"outdated"}
    assert set(frame[frame.scenario == "utility"]["flags"]) == {""}
