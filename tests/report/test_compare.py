"""Two runs side by side: what is tested, what is called a regression."""

import pytest
import torch
from two_runs import N, Side, only, outcomes, rate

import robustsuite as rs
from robustsuite.core.metric import Metric
from robustsuite.core.paired import crossed, holm, mcnemar, paired_interval, sign_flip
from robustsuite.results.compare import Change, compare

# --- What one repeat says


def test_an_unchanged_run_has_no_regression(old, new):
    for side in (old, new):
        side.clean(outcomes(380))
        side.cell("pgd", outcomes(200))
    found = compare(old.folder, new.folder)
    assert found.outcome == "passed"
    assert found.regressions == found.improvements == ()
    row = only(found)
    assert (row.old, row.new, row.difference, row.worse, row.improved, row.p) == (0.5, 0.5, 0.0, 0, 0, 1.0)
    assert (row.low, row.high) == paired_interval(0, 0, N)
    assert row.verdict is Change.NO_EVIDENCE  # 400 samples do not exclude half a point
    assert compare(old.folder, new.folder, min_effect=0.02).rows[0].verdict is Change.NO_WORSE


def test_a_regression_is_counted_sample_by_sample(old, new):
    before, after = outcomes(200), outcomes(200)
    after[:30], after[390:] = False, True
    old.cell("pgd", before)
    new.cell("pgd", after)
    found = compare(old.folder, new.folder)
    row = only(found)
    assert (row.worse, row.improved, row.n, row.repeats) == (30, 10, N, 1)
    assert row.difference == pytest.approx(-0.05)
    assert row.p == row.adjusted == mcnemar(30, 10)
    assert (row.low, row.high) == paired_interval(10, 30, N)
    assert (found.outcome, row.verdict) == ("failed", Change.REGRESSION)
    assert compare(new.folder, old.folder).outcome == "passed"
    assert only(compare(new.folder, old.folder)).verdict is Change.IMPROVEMENT


def test_equal_rates_with_many_flips_either_way_are_no_regression(old, new):
    old.cell("pgd", outcomes(200))
    new.cell("pgd", ~outcomes(200))
    row = only(compare(old.folder, new.folder))
    assert (row.worse, row.improved, row.p) == (200, 200, 1.0)
    assert row.verdict is Change.NO_EVIDENCE


def test_less_than_the_least_effect_is_no_regression_however_certain(old, new):
    after = outcomes(5000, 10_000)
    after[:30] = False
    old.cell("pgd", outcomes(5000, 10_000))
    new.cell("pgd", after)
    row = only(compare(old.folder, new.folder))
    assert row.adjusted < 1e-8
    assert row.verdict is Change.NO_WORSE  # the interval ends above half a point
    assert only(compare(old.folder, new.folder, min_effect=0.003)).verdict is Change.REGRESSION


def test_lower_is_better_for_backdoors_and_inversion_and_only_counted_samples_count(old, new):
    counted = torch.arange(N) >= 40
    for side, right in ((old, 100), (new, 130)):
        hit = outcomes(right)
        value = rate(hit[counted], "lower")
        columns = {"id": torch.arange(N), "hit": hit, "counted": counted}
        side.add("badnets", "poisoning", "backdoor_success_rate", value, columns)
    row = only(compare(old.folder, new.folder), "backdoor_success_rate")
    assert (row.n, row.worse, row.improved) == (360, 30, 0)
    assert (row.old, row.new) == (pytest.approx(60 / 360), pytest.approx(90 / 360))
    assert row.verdict is Change.REGRESSION


def test_a_rate_of_a_plug_ins_own_game_is_tested_where_a_column_has_its_name(old, new):
    for side, right in ((old, 200), (new, 150)):
        holds = outcomes(right)
        columns = {"id": torch.arange(N), "caught": holds, "queries": torch.arange(N)}
        counts = {"queries": Metric(3.0, unit="queries", better="higher")}
        side.add("mine", "a-game", "caught", rate(holds, "higher"), columns, more=counts)
    found = compare(old.folder, new.folder)
    assert only(found, "caught").verdict is Change.REGRESSION
    assert only(found, "queries").verdict is Change.BESIDE


# --- Many tests at once


def test_holm_holds_the_whole_table(old, new):
    after = outcomes(200)
    after[:14], after[396:] = False, True
    p = mcnemar(14, 4)
    assert 0.01 < p < 0.05
    old.cell("pgd", outcomes(200))
    new.cell("pgd", after)
    assert compare(old.folder, new.folder).outcome == "failed"
    for i in range(4):
        for side in (old, new):
            side.cell(f"other{i}", outcomes(200), defense=f"d{i}")
    found = compare(old.folder, new.folder)
    assert [row.adjusted for row in found.tested] == holm([p, 1, 1, 1, 1])
    assert found.outcome == "passed"
    assert compare(old.folder, new.folder, alpha=0.4).outcome == "failed"


def test_samples_too_few_for_any_test_cost_the_others_nothing(old, new):
    after = outcomes(200)
    after[:14], after[396:] = False, True
    old.cell("pgd", outcomes(200))
    new.cell("pgd", after)
    for i in range(5):
        old.cell("few", outcomes(5, 5), defense=f"d{i}")
        new.cell("few", outcomes(0, 5), defense=f"d{i}")
    found = compare(old.folder, new.folder)
    assert len(found.tested) == 1
    assert found.outcome == "failed"
    few = next(row for row in found.rows if row.attack == "few")
    # Five of five are lost: nothing can be tested, and nothing is passed over.
    assert (few.verdict, few.message) == (Change.UNDECIDED, "5 samples are too few for any test")
    assert compare(old.folder, old.folder).outcome == "passed"


# --- Several repeats


def test_a_sample_counts_once_however_many_repeats_judged_it(old, new):
    """14 samples flip to the worse in each of 5 trainings, 4 to the better: 70 and 20 flips, but 18 samples."""
    after = outcomes(200)
    after[:14], after[396:] = False, True
    for repeat in range(5):
        old.cell("pgd", outcomes(200), repeat=repeat)
        new.cell("pgd", after, repeat=repeat)
    row = only(compare(old.folder, new.folder))
    assert (row.repeats, row.n, row.worse, row.improved) == (5, N, 70, 20)
    assert row.p_weights == pytest.approx(mcnemar(14, 4))
    assert row.p_weights <= row.p < 0.05
    assert mcnemar(70, 20) < 1e-6


def test_trainings_that_scatter_leave_it_undecided(old, new):
    """Each pair of trainings differs beyond doubt, but not always to the worse."""
    rates = ((200, 150), (190, 200), (210, 120))
    for repeat, (before, after) in enumerate(rates):
        old.cell("pgd", outcomes(before), repeat=repeat)
        new.cell("pgd", outcomes(after), repeat=repeat)
    row = only(compare(old.folder, new.folder))
    assert row.adjusted_weights < 1e-6 < 0.05 < row.adjusted
    assert row.low < 0 < row.high
    assert row.verdict is Change.UNDECIDED
    found = compare(old.folder, new.folder)
    assert found.outcome == "inconclusive"
    assert row.repeats_needed > 3
    assert f"more repeats would settle it: with {row.repeats_needed} in place of 3," in found.summary()
    assert [r["repeats_needed"] for r in found.as_dict()["rows"]] == [row.repeats_needed]
    assert compare(new.folder, old.folder).outcome == "passed"
    stacked = [torch.stack([outcomes(pair[side]) for pair in rates]).numpy() for side in (0, 1)]
    assert (row.low, row.high, row.p) == (crossed(*stacked).low, crossed(*stacked).high, crossed(*stacked).p)
    assert row.p_weights == sign_flip((stacked[1].astype(int) - stacked[0].astype(int)).sum(0).tolist())


def test_trainings_that_agree_are_a_regression(old, new):
    for repeat, (before, after) in enumerate(((200, 150), (205, 160), (195, 148))):
        old.cell("pgd", outcomes(before), repeat=repeat)
        new.cell("pgd", outcomes(after), repeat=repeat)
    assert only(compare(old.folder, new.folder)).verdict is Change.REGRESSION


def test_repeats_of_one_side_are_left_out_and_named(old, new):
    for repeat in range(3):
        old.cell("pgd", outcomes(200), repeat=repeat)
    for repeat in (0, 2):
        new.cell("pgd", outcomes(200), repeat=repeat)
    row = only(compare(old.folder, new.folder))
    assert (row.repeats, row.message) == (2, "2 of 3 repeats were measured in both")


# --- Doubts


def test_an_improvement_under_a_new_doubt_is_in_doubt(old, new):
    old.cell("pgd", outcomes(200))
    new.cell("pgd", outcomes(400), flags=("zero-gradients",))
    row = only(compare(old.folder, new.folder))
    assert (row.verdict, row.flags, row.flags_gone) == (Change.IN_DOUBT, ("zero-gradients",), ())
    back = only(compare(new.folder, old.folder))
    assert (back.verdict, back.flags, back.flags_gone) == (Change.IN_DOUBT, (), ("zero-gradients",))
    assert compare(old.folder, new.folder, allow_missing=True).outcome == "inconclusive"
    assert compare(new.folder, old.folder).outcome == "inconclusive"


def test_a_regression_under_a_doubt_of_both_stays_one(old, new):
    old.cell("pgd", outcomes(200), flags=("not-adaptive",))
    new.cell("pgd", outcomes(100), flags=("not-adaptive",))
    assert only(compare(old.folder, new.folder)).verdict is Change.REGRESSION


# --- The worst case


def test_the_worst_case_is_over_attacks_of_both_runs(old, new):
    for side in (old, new):
        side.cell("fgsm", outcomes(300))
        side.cell("noise", torch.arange(N) >= 50)
    new.cell("pgd", outcomes(0))
    found = compare(old.folder, new.folder)
    row = only(found, attack="worst-case")
    assert (row.old, row.new, row.worse) == (250 / N, 250 / N, 0)
    assert row.message == "over fgsm, noise only, which both runs judged"
    assert [r.attack for r in found.rows] == ["fgsm", "noise", "worst-case", "pgd"]


def test_a_new_hole_shows_in_the_worst_case(old, new):
    for side in (old, new):
        side.cell("fgsm", outcomes(300))
    old.cell("noise", outcomes(350))
    new.cell("noise", torch.arange(N) >= 50)
    found = compare(old.folder, new.folder)
    assert only(found, attack="noise").improved == 50
    assert only(found, attack="noise").verdict is Change.NO_EVIDENCE
    assert only(found, attack="worst-case").verdict is Change.REGRESSION


# --- Figures without samples


def epsilon(value):
    return {"epsilon": Metric(value, unit="nats", better="lower")}


@pytest.mark.parametrize(
    ("before", "after", "flags", "verdict"),
    [
        (3.0, 8.0, (), Change.REGRESSION),
        (3.0, 3.01, (), Change.NO_WORSE),
        (3.0, 1.0, (), Change.IMPROVEMENT),
        (3.0, 1.0, ("epsilon-not-valid",), Change.REGRESSION),
        (3.0, None, (), Change.REGRESSION),
        (None, 3.0, (), Change.BESIDE),
    ],
)
def test_a_privacy_guarantee_needs_no_test(old, new, before, after, flags, verdict):
    old.clean(outcomes(380), metrics={} if before is None else epsilon(before))
    new.clean(outcomes(380), metrics={} if after is None else epsilon(after), flags=flags)
    found = compare(old.folder, new.folder)
    assert only(found, "epsilon").verdict is verdict
    assert only(found, "clean_accuracy").flags == ()
    assert found.outcome == ("failed" if verdict is Change.REGRESSION else "passed")


def test_other_figures_stand_beside(old, new):
    for side, latency, share in ((old, 1.0, 0.1), (new, 9.0, 0.5)):
        wide = Metric(share, N, share - 0.05, share + 0.05, "rate", "lower")
        figures = {"latency_ms": Metric(latency, unit="milliseconds", better="lower"), "rejected": wide}
        side.clean(outcomes(380), metrics=figures)
    found = compare(old.folder, new.folder)
    assert only(found, "latency_ms").difference == 8.0
    assert only(found, "rejected").message == "worse, the intervals lie apart"
    assert {only(found, name).verdict for name in ("latency_ms", "rejected")} == {Change.BESIDE}
    assert found.outcome == "passed"


# --- Several suites in one run


def test_suites_of_different_radii_are_compared_beside_each_other(tmp_path):
    for name, left in (("old", 200), ("new", 100)):
        for count, suite, radius, right in ((0, "near", 0.1, 200), (10, "far", 0.2, left)):
            side = Side(tmp_path / name, suite=suite)
            side.count = count
            side.clean(outcomes(380))
            side.cell("pgd", outcomes(right), radius=radius)
    found = compare(tmp_path / "old", tmp_path / "new")
    assert [(row.defense, row.metric, row.radius, row.verdict) for row in found.rows] == [
        ("near/digits: ours", "clean_accuracy", None, Change.NO_EVIDENCE),
        ("near/digits: ours", "robust_accuracy", 0.1, Change.NO_EVIDENCE),
        ("far/digits: ours", "clean_accuracy", None, Change.NO_EVIDENCE),
        ("far/digits: ours", "robust_accuracy", 0.2, Change.REGRESSION),
    ]
    assert found.notes == ()


# --- What a user asks for


def test_points_of_curves_are_left_out_and_counted(old, new):
    for side, right in ((old, 300), (new, 200)):
        side.cell("pgd", outcomes(200))
        side.cell("pgd", outcomes(right)[:300], radius=0.1, sweep="radius")
    found = compare(old.folder, new.folder)
    assert [row.radius for row in found.rows] == [0.3]
    assert "2 points of curves are left out" in found.notes
    assert [row.verdict for row in compare(old.folder, new.folder, curve=True).rows] == [
        Change.NO_EVIDENCE,
        Change.REGRESSION,
    ]


def test_only_the_metrics_asked_for(old, new):
    for side, right in ((old, 200), (new, 100)):
        side.clean(outcomes(right))
        side.cell("pgd", outcomes(200))
    assert compare(old.folder, new.folder).outcome == "failed"
    found = compare(old.folder, new.folder, metrics=["robust_accuracy"])
    assert [row.metric for row in found.rows] == ["robust_accuracy"]
    assert found.outcome == "passed"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": ["robust_acuracy"]}, "did you mean 'robust_accuracy'"),
        ({"alpha": 0.0}, "alpha=0.0"),
        ({"min_effect": -0.1}, "min_effect=-0.1"),
    ],
)
def test_wrong_requests(old, options, words):
    old.cell("pgd", outcomes(200))
    with pytest.raises(rs.RequestError, match=words):
        compare(old.folder, old.folder, **options)


def test_a_folder_without_records_is_refused(old, tmp_path):
    old.cell("pgd", outcomes(200))
    with pytest.raises(rs.RequestError, match=r"records\.jsonl"):
        rs.compare(old.folder, tmp_path / "nowhere")
