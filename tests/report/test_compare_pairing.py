"""Two runs side by side: what is joined, and what is not compared."""

import pytest
import torch
from two_runs import N, only, outcomes, verdicts

from robustsuite.results.compare import Change, compare

# --- What can be paired


def test_samples_are_joined_by_id(old, new):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    holds = torch.rand(N, generator=torch.Generator().manual_seed(1)) < 0.5
    old.cell("pgd", holds, label=torch.arange(N) % 10)
    new.cell("pgd", holds[order], ids=order, label=order % 10)
    assert (only(compare(old.folder, new.folder)).worse, only(compare(old.folder, new.folder)).improved) == (0, 0)


def test_the_common_samples_are_compared_where_they_are_half(old, new):
    old.cell("pgd", outcomes(200))
    new.cell("pgd", outcomes(100)[:300], ids=torch.arange(300))
    row = only(compare(old.folder, new.folder))
    assert (row.n, row.old, row.worse) == (300, pytest.approx(200 / 300), 100)
    assert row.message == "on the 300 samples of both runs (of 400 and 300)"
    new.cell("fgsm", outcomes(100), ids=torch.arange(N) + 201)
    old.cell("fgsm", outcomes(100))
    row = only(compare(old.folder, new.folder), attack="fgsm")
    assert (row.verdict, row.p) == (Change.NOT_COMPARABLE, None)
    assert row.message == "other samples: 199 of 400 and 400 are common"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"dataset": "mnist"}, {}, "other data set: mnist, now digits"),
        ({"knowledge": "score-based"}, {}, "other threat: score-based, now white-box"),
        ({"radius": 0.1}, {}, "other threat: linf 0.1, now linf 0.3"),
        ({"norm": "l2"}, {}, "other threat: l2 0.3, now linf 0.3"),
        ({"label": torch.zeros(N)}, {"label": torch.ones(N)}, "other data: samples of one id have different labels"),
    ],
)
def test_other_data_and_other_threats_are_not_compared(old, new, before, after, told):
    old.cell("pgd", outcomes(200), **before)
    new.cell("pgd", outcomes(100), **after)
    found = compare(old.folder, new.folder)
    row = only(found)
    assert (row.verdict, row.message, row.p) == (Change.NOT_COMPARABLE, told, None)
    assert found.outcome == "inconclusive"
    assert "Nothing could be compared" in found.summary()


def test_a_lost_per_sample_file_is_said(old, new):
    old.cell("pgd", outcomes(200))
    record = new.cell("pgd", outcomes(100))
    (new.folder / record.samples).unlink()
    row = only(compare(old.folder, new.folder))
    assert row.verdict is Change.NOT_COMPARABLE
    assert record.key in row.message
    assert (row.old, row.new) == (0.5, 0.25)  # from the records


def test_another_setting_of_the_attack_is_said(old, new):
    old.cell("pgd", outcomes(200), attack_parameters={"is": "pgd", "steps": 10})
    new.cell("pgd", outcomes(200), attack_parameters={"is": "pgd", "steps": 40})
    assert only(compare(old.folder, new.folder)).message == "the attack differs (steps 10, now 40)"


def test_under_another_attack_nothing_is_blamed_on_the_model(old, new):
    old.cell("pgd", outcomes(200), attack_parameters={"is": "pgd", "steps": 40})
    new.cell("pgd", outcomes(300), attack_parameters={"is": "pgd", "steps": 5})
    for sides in ((old.folder, new.folder), (new.folder, old.folder)):
        found = compare(*sides)
        assert (only(found).verdict, only(found).p, found.outcome) == (Change.NOT_COMPARABLE, None, "inconclusive")


# --- Cells that are not there, and cells that fail


def test_cells_of_one_side_are_listed(old, new):
    for side in (old, new):
        side.cell("fgsm", outcomes(200))
    old.cell("pgd", outcomes(100))
    new.cell("noise", outcomes(300))
    found = compare(old.folder, new.folder)
    assert verdicts(found)["pgd", "robust_accuracy"] is Change.ONLY_OLD
    assert verdicts(found)["noise", "robust_accuracy"] is Change.ONLY_NEW
    assert (only(found, attack="pgd").old, only(found, attack="pgd").new) == (0.25, None)
    assert (only(found, attack="noise").old, only(found, attack="noise").new) == (None, 0.75)
    assert found.outcome == "inconclusive"
    assert compare(old.folder, new.folder, allow_missing=True).outcome == "passed"


def test_a_cell_that_fails_now_is_a_regression(old, new):
    old.cell("pgd", outcomes(200))
    new.fails("pgd", norm="linf", radius=0.3)
    row = only(compare(old.folder, new.folder))
    assert (row.verdict, row.old, row.new) == (Change.REGRESSION, 0.5, None)
    assert row.message == "the cell fails now: ValueError: no"
    back = compare(new.folder, old.folder)
    assert (back.outcome, back.rows[0].verdict) == ("inconclusive", Change.ONLY_NEW)
    assert compare(new.folder, new.folder).rows[0].verdict is Change.NOT_COMPARABLE


def test_a_failure_before_the_ball_was_known_is_found(old, new):
    for side in (old, new):
        side.cell("fgsm", outcomes(200))
    old.cell("pgd", outcomes(200))
    new.fails("pgd")
    assert only(compare(old.folder, new.folder), attack="pgd").verdict is Change.REGRESSION


def test_one_failing_repeat_is_a_regression_beside_the_others(old, new):
    for repeat in (0, 1):
        old.cell("pgd", outcomes(200), repeat=repeat)
    new.cell("pgd", outcomes(200))
    new.fails("pgd", repeat=1, norm="linf", radius=0.3)
    failed, tested = compare(old.folder, new.folder).rows
    assert failed.message == "the cell fails now in repeat 1: ValueError: no"
    assert (tested.repeats, tested.verdict) == (1, Change.NO_EVIDENCE)


def test_what_is_no_longer_applicable_is_said(old, new):
    old.cell("pgd", outcomes(200))
    new.add("pgd", "evasion", "", {}, status="not_applicable", message="no recipe", metrics={}, norm="linf", radius=0.3)
    row = only(compare(old.folder, new.folder))
    assert (row.verdict, row.message) == (Change.ONLY_OLD, "ok, now not applicable; no recipe")
