"""Two runs side by side: what is joined, what is tested, what is called a regression."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import robustsuite as rs
from robustsuite.core.intervals import interval
from robustsuite.core.metric import Metric
from robustsuite.core.paired import crossed, holm, mcnemar, paired_interval, repeats_needed, sign_flip
from robustsuite.evaluation.records import Record, append, save_samples
from robustsuite.report.export.compare_text import markdown, terminal
from robustsuite.report.report import Report
from robustsuite.results.compare import Change, compare

N = 400


class Side:
    """Writes a run's folder, cell by cell."""

    def __init__(self, folder, **common):
        self.folder, self.common, self.count = folder, common, 0

    def cell(self, attack, holds, *, ids=None, label=None, radius=0.3, **fields):
        """An evasion cell whose samples stand where `holds` says."""
        columns = {"id": torch.arange(len(holds)) if ids is None else ids, "robust": holds}
        if label is not None:
            columns["label"] = label
        shape = {"norm": "linf", "radius": radius, "knowledge": "white-box"}
        return self.add(attack, "evasion", "robust_accuracy", rate(holds, "higher"), columns, **{**shape, **fields})

    def clean(self, holds, **fields):
        columns = {"id": torch.arange(len(holds)), "clean_correct": holds}
        more = fields.pop("metrics", {})
        return self.add("none", "utility", "clean_accuracy", rate(holds, "higher"), columns, more=more, **fields)

    def add(self, attack, scenario, metric, value, columns=None, more=(), **fields):
        self.count += 1
        key = f"{self.folder.name}{self.count}"
        given = {"suite": "s", "dataset": "digits", "model": "cnn", "defense": "ours", **self.common, **fields}
        record = Record(
            **{
                "key": key,
                "order": self.count,
                "attack": attack,
                "scenario": scenario,
                "headline": metric,
                "metrics": {metric: value, **dict(more)},
                **given,
            }
        )
        if columns:
            path, digest = save_samples(self.folder, key, columns)
            record = replace(record, samples=path, samples_digest=digest)
        append(self.folder / "records.jsonl", record)
        return record

    def fails(self, attack, scenario="evasion", **fields):
        self.add(attack, scenario, "", {}, status="error", message="Traceback\nValueError: no", metrics={}, **fields)


def rate(holds, better):
    return Metric(float(holds.double().mean()), len(holds), *interval(int(holds.sum()), len(holds)), "rate", better)


def outcomes(right, n=N):
    """The first so many samples are right."""
    return torch.arange(n) < right


@pytest.fixture
def old(tmp_path):
    return Side(tmp_path / "old")


@pytest.fixture
def new(tmp_path):
    # Nothing but what a cell is called joins it: neither key nor order, suite, model or seed.
    side = Side(tmp_path / "new", suite="renamed", model="resnet18", seed=7)
    side.count = 50
    return side


def only(comparison, metric="robust_accuracy", attack=None):
    (row,) = [r for r in comparison.rows if r.metric == metric and attack in (None, r.attack)]
    return row


def verdicts(comparison):
    return {(row.attack, row.metric): row.verdict for row in comparison.rows}


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
        side.cell("pgd", outcomes(right)[:300], radius=0.1)
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


# --- How it is shown


@pytest.fixture
def shown(old, new):
    old.common["defense"] = new.common["defense"] = "<b>|[red]x"
    old.clean(outcomes(380))
    new.clean(outcomes(340))
    old.cell("pgd", outcomes(200))
    new.cell("pgd", outcomes(400), flags=("zero-gradients",))
    return compare(Report.load(old.folder), Report.load(new.folder))


def test_frame_and_json_hold_every_row(shown):
    assert list(shown.frame.verdict) == ["regression", "in doubt"]
    assert list(shown.frame["flags"]) == ["", "zero-gradients"]
    told = json.loads(json.dumps(shown.as_dict(), allow_nan=False))
    assert told["outcome"] == "failed"
    assert [row["worse"] for row in told["rows"]] == [40, 0]
    assert told["notes"][:2] == ["model: cnn, now resnet18", "suite: s, now renamed"]


def test_markdown_escapes_names(shown):
    text = markdown(shown)
    assert "**regression**" in text
    assert r"&lt;b&gt;\|\[red\]x" in text
    assert "<b>" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in table} == {11}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_terminal_shows_names_as_they_are(shown, encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding)
    terminal(shown, Console(file=stream, width=200, no_color=True))
    stream.flush()
    text = raw.getvalue().decode(encoding)
    assert "<b>|[red]x" in text
    assert "-40 +0" in text
    assert "new doubt: zero-gradients" in text


@pytest.fixture
def scattered(old, new):
    for repeat, (before, after) in enumerate(((200, 150), (190, 200), (210, 120))):
        old.cell("pgd", outcomes(before), repeat=repeat)
        new.cell("pgd", outcomes(after), repeat=repeat)
        old.cell("fgsm", outcomes(250), repeat=repeat)
        new.cell("fgsm", outcomes(250), repeat=repeat, status="inconclusive" if repeat else "ok")
    return compare(old.folder, new.folder, metrics=["robust_accuracy"])


def test_how_many_repeats_would_tell_is_shown_and_what_is_newly_withheld(scattered):
    needed = only(scattered, attack="pgd").repeats_needed
    raw = io.StringIO()
    terminal(scattered, Console(file=raw, width=300, no_color=True))
    for text in (raw.getvalue(), markdown(scattered).replace("\\", "")):
        assert f"with {needed} repeats in place of 3 a difference like this one is called in four of five" in text
        assert "ours x fgsm, robust accuracy; ours x worst-case, robust accuracy: newly withheld" in text
    row = scattered.frame.set_index("attack").loc["pgd"]
    assert (row.repeats_needed, row.gap, row.verdict) == (needed, "", "undecided")


def test_how_many_repeats_a_difference_that_is_not_excluded_takes(old, new):
    for repeat in range(3):
        for side, shift in ((old, 0), (new, 3)):
            side.cell("pgd", outcomes(200 + 20 * repeat + shift), repeat=repeat)
    found = compare(old.folder, new.folder)
    row = only(found)
    assert (row.verdict, found.outcome) == (Change.NO_EVIDENCE, "passed")
    assert row.repeats_needed == repeats_needed(row.found, 0.05, row.low) > 3
    points = f"{-100 * row.low:.1f} points (ours x pgd, robust_accuracy)"
    told = f"do not exclude a worsening of up to {points}; to call one like it would take {row.repeats_needed} repeats."
    assert told in found.summary()


def test_one_repeat_is_about_these_weights_and_several_are_not(shown, scattered):
    words = "With one repeat this is about these trained models (these weights), not about their training."
    assert words in shown.summary()
    assert words in markdown(shown)
    assert words not in scattered.summary()


def test_records_that_do_not_tell_their_rules_are_named(old, new):
    old.cell("pgd", outcomes(200))
    new.cell("pgd", outcomes(200), rules={"goal": "untargeted"})
    (told,) = [note for note in compare(old.folder, new.folder).notes if "rules" in note]
    assert told == "records of the old run do not tell the rules of their games, so those are not compared"


def test_the_verdict_in_a_sentence(shown):
    assert shown.summary().startswith("1 regression and 0 improvements among 2 tested figures.")
