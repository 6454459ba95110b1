"""Gates against reports of which every figure is known."""

import pytest
import torch

from robustsuite.core.errors import RequestError
from robustsuite.core.gate import Gate
from robustsuite.core.intervals import interval
from robustsuite.core.metric import Metric
from robustsuite.evaluation.record_files import save_samples
from robustsuite.evaluation.records import Record
from robustsuite.report.report import Report
from robustsuite.results.deciding import Outcome, Verdict, decide
from robustsuite.results.gates import judge, worst

FLOOR = Gate(metric="robust_accuracy", at_least=0.5)


def rate(successes, n, better="higher"):
    return Metric(successes / n, n, *interval(successes, n), "rate", better)


def record(attack="pgd", successes=90, *, n=100, defense="none", repeat=0, **fields):
    scenario = "utility" if attack == "none" else "evasion"
    name = "clean_accuracy" if attack == "none" else "robust_accuracy"
    given = {
        "key": f"{defense}-{attack}-{repeat}-{fields.get('radius', 0.1)}",
        "order": 0,
        "suite": "s",
        "dataset": "d",
        "model": "m",
        "defense": defense,
        "attack": attack,
        "scenario": scenario,
        "norm": "" if attack == "none" else "linf",
        "radius": None if attack == "none" else 0.1,
        "repeat": repeat,
        "headline": name,
        "metrics": {name: rate(successes, n)},
    }
    return Record(**{**given, **fields})


def verdicts(gates, *records, folder=None):
    return judge(gates if isinstance(gates, (list, tuple)) else [gates], Report(records, folder))


def outcomes(found):
    return [(str(v.gate), v.outcome.value) for v in found]


@pytest.mark.parametrize(
    ("successes", "floor", "ceiling"),
    [(90, "passed", "failed"), (50, "inconclusive", "inconclusive"), (10, "failed", "passed")],
)
def test_floors_and_ceilings(successes, floor, ceiling):
    (least, most) = verdicts([FLOOR, Gate(metric="robust_accuracy", at_most=0.5)], record(successes=successes))
    assert (least.outcome.value, most.outcome.value) == (floor, ceiling)
    assert least.gate == Gate(metric="robust_accuracy", at_least=0.5, attack="pgd", defense="none")
    assert least.metric.value == successes / 100
    assert least.message.startswith(f"{floor}: pgd: robust_accuracy {successes / 100:.3f} [")
    assert "asked for at least 0.5" in least.message
    assert "asked for at most 0.5" in most.message


def test_without_files_of_samples_every_attack_must_hold():
    found = verdicts(FLOOR, record("noise", 99), record("pgd", 10), record("none", 99))
    assert outcomes(found) == [("noise:robust_accuracy>=0.5", "passed"), ("pgd:robust_accuracy>=0.5", "failed")]
    assert worst(found) is Outcome.FAILED


def test_without_an_attack_the_verdict_must_hold(tmp_path):
    """Two attacks that break disjoint halves leave nothing standing."""
    ids, records = torch.arange(100), []
    for order, (name, robust) in enumerate((("a", ids < 50), ("b", ids >= 50))):
        path, digest = save_samples(tmp_path, name, {"id": ids, "robust": robust})
        records.append(record(name, 50, order=order, samples=path, samples_digest=digest))
    found = verdicts([Gate(metric="robust_accuracy", at_least=0.3)], *records, folder=tmp_path)
    assert outcomes(found) == [("worst-case:robust_accuracy>=0.3", "failed")]
    named = [Gate(metric="robust_accuracy", at_least=0.3, attack=name) for name in "ab"]
    assert [v.outcome.value for v in verdicts(named, *records, folder=tmp_path)] == ["passed", "passed"]


def test_what_the_clean_evaluation_gives_is_asked_of_it_alone():
    attacked = record("pgd", 10)
    attacked = Record(**{**vars(attacked), "metrics": {**attacked.metrics, "clean_accuracy": rate(20, 100)}})
    gate = Gate(metric="clean_accuracy", at_least=0.8)
    assert outcomes(verdicts(gate, record("none", 95), attacked)) == [("clean_accuracy>=0.8", "passed")]
    named = Gate(metric="clean_accuracy", at_least=0.8, attack="pgd")
    assert outcomes(verdicts(named, record("none", 95), attacked)) == [("pgd:clean_accuracy>=0.8", "failed")]
    assert outcomes(verdicts(gate, attacked)) == [("pgd:clean_accuracy>=0.8", "failed")]


def test_without_a_defence_every_one_must_hold():
    found = verdicts(FLOOR, record(defense="none", successes=10), record(defense="at", successes=90))
    assert outcomes(found) == [("pgd:robust_accuracy>=0.5", "failed"), ("at/pgd:robust_accuracy>=0.5", "passed")]
    one = Gate(metric="robust_accuracy", at_least=0.5, defense="at")
    assert outcomes(verdicts(one, record(defense="none", successes=10), record(defense="at"))) == [
        ("at/pgd:robust_accuracy>=0.5", "passed")
    ]


def test_points_of_a_curve_are_not_judged():
    found = verdicts(FLOOR, record(successes=90), record(successes=0, radius=0.5, sweep="radius", order=1))
    assert outcomes(found) == [("pgd:robust_accuracy>=0.5", "passed")]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"status": "error", "message": "Traceback\nZeroDivisionError: planted", "metrics": {}},
         "pgd has status error: ZeroDivisionError: planted"),
        ({"status": "not_applicable", "message": "no data", "metrics": {}}, "pgd has status not applicable: no data"),
        ({"status": "not_run", "metrics": {}}, "pgd has status not run"),
        ({"metrics": {"clean_accuracy": rate(90, 100)}}, "pgd gives no robust_accuracy here"),
    ],
)  # fmt: skip
def test_what_is_missing_is_inconclusive_and_named(given, told):
    (found,) = verdicts(FLOOR, record(**given))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert told in found.message
    assert found.metric is None
    assert str(found.gate) == "pgd:robust_accuracy>=0.5"


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        (Gate(metric="robust_accuracy", at_least=0.5, attack="fgsm"), "no record of fgsm"),
        (Gate(metric="robust_accuracy", at_least=0.5, defense="at"), "no record of the defence 'at'"),
        (Gate(metric="inversion_accuracy", at_most=0.5), "no attack gives it"),
        (Gate(metric="epsilon", at_most=3), "the clean evaluation gives no epsilon here"),
    ],
)
def test_what_was_never_there_is_inconclusive(gate, told):
    (found,) = verdicts(gate, record(), record("none"))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert told in found.message
    assert (found.gate.attack, found.gate.metric) == (gate.attack or found.gate.attack, gate.metric)


def test_no_records_at_all():
    (found,) = verdicts(FLOOR)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert worst(()) is None
    assert verdicts([], record()) == ()


# --- repeats


def test_over_repeats_the_spread_of_trainings_counts():
    """Two trainings at 0.6 and 0.9 pass a floor of 0.5 each, and together say little about training."""
    alone = verdicts(FLOOR, record(successes=65, n=100))
    assert worst(alone) is Outcome.PASSED
    (found,) = verdicts(FLOOR, record(successes=65), record(successes=90, repeat=1))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "more repeats would settle it, no more samples" in found.message
    assert found.metric.value == pytest.approx(0.775)


def test_over_repeats_more_samples_may_settle_it():
    same = [record(successes=56, repeat=i) for i in range(3)]
    (found,) = verdicts(FLOOR, *same)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "more samples in each repeat would probably settle it" in found.message
    more = int(found.message.split("about ")[1].split(" ")[0])
    n = 100 + more
    (after,) = verdicts(FLOOR, *(record(successes=round(0.56 * n), n=n, repeat=i) for i in range(3)))
    assert after.outcome is Outcome.PASSED
    n = 100 + more // 3  # about half of it settles this very figure, and all of it four runs in five
    (before,) = verdicts(FLOOR, *(record(successes=round(0.56 * n), n=n, repeat=i) for i in range(3)))
    assert before.outcome is Outcome.INCONCLUSIVE


def test_a_repeat_that_is_missing_withholds_the_verdict():
    broken = {"status": "error", "message": "MemoryError", "metrics": {}, "repeat": 1}
    (found,) = verdicts(FLOOR, record(successes=99), record(**broken))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "pgd (repeat 1) has status error: MemoryError" in found.message
    assert found.metric.value == 0.99
    (found, _) = verdicts(FLOOR, record("pgd", 99), record("fgsm", 99), record("fgsm", 99, repeat=1))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "pgd has no record of 1 of 2 repeats" in found.message


# --- doubts


@pytest.mark.parametrize(
    ("flag", "bound", "successes", "outcome"),
    [
        ("zero-gradients", "at_least", 99, "inconclusive"),
        ("zero-gradients", "at_least", 1, "failed"),
        ("zero-gradients", "at_most", 1, "passed"),  # the truth is lower still
        ("zero-gradients", "at_most", 99, "inconclusive"),
        ("nondeterministic", "at_least", 1, "inconclusive"),
        ("nondeterministic", "at_most", 1, "inconclusive"),
        ("few-samples", "at_least", 99, "passed"),
        ("epsilon-not-valid", "at_least", 99, "inconclusive"),
        ("from-a-plugin", "at_least", 1, "inconclusive"),
    ],
)
def test_doubts_leave_open_what_they_leave_open(flag, bound, successes, outcome):
    (found,) = verdicts(Gate(metric="robust_accuracy", **{bound: 0.5}), record(successes=successes, flags=(flag,)))
    assert found.outcome.value == outcome
    assert found.flags == (flag,)


def test_a_flattered_attack_is_the_mirror_image():
    """Under masked gradients an attack's true success is higher: a ceiling that is missed is missed."""
    for successes, outcome in ((90, "failed"), (5, "inconclusive")):
        given = record(flags=("zero-gradients",), metrics={"attack_success_rate": rate(successes, 100, "lower")})
        (found,) = verdicts(Gate(metric="attack_success_rate", at_most=0.5), given)
        assert found.outcome.value == outcome


def test_a_doubt_about_the_attack_is_none_about_clean_inputs():
    given = record(flags=("not-adaptive",), metrics={"clean_accuracy": rate(99, 100)})
    gate = Gate(metric="clean_accuracy", at_least=0.5, attack="pgd")
    assert verdicts(gate, given)[0].outcome is Outcome.PASSED
    given = record(flags=("nondeterministic",), metrics={"clean_accuracy": rate(99, 100)})
    assert verdicts(gate, given)[0].outcome is Outcome.INCONCLUSIVE


def test_doubts_whose_direction_nobody_knows():
    given = record(
        flags=("zero-gradients",),
        metrics={"distance_median": Metric(0.01, 9, 0.005, 0.02, "linf", "higher")},
    )
    (found,) = verdicts(Gate(metric="distance_median", at_least=0.05), given)
    assert found.outcome is Outcome.INCONCLUSIVE


def test_a_privacy_guarantee_under_its_own_doubt():
    def trained(*flags):
        metrics = {
            "clean_accuracy": rate(90, 100),
            "epsilon": Metric(2.9, unit="nats", better="lower"),
        }
        return record("none", flags=flags, metrics=metrics)

    gate = Gate(metric="epsilon", at_most=3)
    assert verdicts(gate, trained())[0].message == "passed: epsilon 2.9, asked for at most 3"
    assert verdicts(Gate(metric="epsilon", at_most=2.5), trained())[0].outcome is Outcome.FAILED
    (found,) = verdicts(gate, trained("epsilon-not-valid"))
    assert found.outcome is Outcome.INCONCLUSIVE
    clean = Gate(metric="clean_accuracy", at_least=0.5)
    assert verdicts(clean, trained("epsilon-not-valid"))[0].outcome is Outcome.PASSED


def test_an_inconclusive_record_says_why():
    (found,) = verdicts(FLOOR, record(successes=99, status="inconclusive", message="the coin rolled away"))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "the coin rolled away" in found.message


def test_a_worst_case_without_one_of_its_attacks_can_only_be_too_high(tmp_path):
    ids = torch.arange(100)
    path, digest = save_samples(tmp_path, "a", {"id": ids, "robust": ids < 5})
    broken = record("b", order=1, status="error", message="ValueError: no", metrics={})
    low = record("a", 5, samples=path, samples_digest=digest)
    gate = Gate(metric="robust_accuracy", at_least=0.3, attack="worst-case")
    (found,) = verdicts(gate, low, broken, folder=tmp_path)
    assert found.outcome is Outcome.FAILED
    path, digest = save_samples(tmp_path, "c", {"id": ids, "robust": ids < 95})
    high = record("a", 95, samples=path, samples_digest=digest)
    (found,) = verdicts(gate, high, broken, folder=tmp_path)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "b is not part of it (error)" in found.message


# --- figures that are no rates


@pytest.mark.parametrize(
    ("metric", "bound", "outcome", "told"),
    [
        (Metric(12345, unit="count"), {"at_most": 20000}, "passed", "x 12,345, asked for at most 20000"),
        (Metric(12345, 60, unit="count"), {"at_most": 10000}, "failed", "x 12,345,"),
        (Metric(3.25, unit="nats", better="lower"), {"at_most": 3.25}, "passed", "x 3.25,"),
        (
            Metric(0.02, 100, -0.01, 0.05, "rate difference", "lower"),
            {"at_most": 0.03},
            "inconclusive",
            "[-0.010, 0.050]",
        ),
        (Metric(0.02, 100, -0.01, 0.05, "rate difference", "lower"), {"at_most": 0.06}, "passed", "x 0.020"),
        (Metric(0.9, 100, unit="rate", better="higher"), {"at_least": 0.5}, "inconclusive", "it has no interval"),
        (Metric(7.0, 100, unit="queries", better="higher"), {"at_least": 5}, "inconclusive", "it has no interval"),
    ],
)
def test_other_units(metric, bound, outcome, told):
    found = decide(metric, **bound, name="x")
    assert found.outcome.value == outcome
    assert told in found.message


def test_advice_about_differences():
    """Half the distance takes four times the samples, and (1 + 0.8416 / 1.96) ** 2 of that for four runs in five."""
    found = decide(Metric(0.02, 100, -0.02, 0.06, "rate difference", "lower"), at_most=0.04, name="drop")
    assert "about 718 more samples" in found.message


def test_a_gate_has_one_bound():
    with pytest.raises(RequestError, match="a floor and a ceiling are two gates"):
        Gate(metric="x", at_least=0.1, at_most=0.2)
    with pytest.raises(RequestError, match="at_least"):
        Gate(metric="x", at_least=float("inf"))


def test_verdicts_are_ranked():
    passed, failed, open_ = (Verdict(outcome, "") for outcome in (Outcome.PASSED, Outcome.FAILED, Outcome.INCONCLUSIVE))
    assert worst([passed, passed]) is Outcome.PASSED
    assert worst([passed, open_]) is Outcome.INCONCLUSIVE
    assert worst([open_, failed, passed]) is Outcome.FAILED


def test_a_figure_with_follow_ups_that_is_lost_leaves_the_gate_open():
    """Its flags say that follow-up attacks were played; the attack's own number alone must not pass."""
    flags = ("resolved:zero-gradients",)
    both = {"robust_accuracy": rate(90, 100), "robust_accuracy_followed_up": rate(20, 100)}
    gate = Gate(metric="robust_accuracy", at_least=0.5, attack="pgd")
    whole = [record(repeat=r, metrics=both, flags=flags) for r in range(2)]
    assert outcomes(verdicts(gate, *whole)) == [("pgd:robust_accuracy>=0.5", "failed")]
    for lost in ([record(flags=flags)], [record(flags=flags), whole[1]]):
        (found,) = verdicts(gate, *lost)
        assert found.outcome is Outcome.INCONCLUSIVE
        assert "was followed up" in found.message
    assert outcomes(verdicts(Gate(**{**vars(gate), "own": True}), record(flags=flags)))[0][1] == "passed"


def test_repeats_that_were_played_by_different_rules_are_not_merged():
    (found,) = verdicts(FLOOR, record(rules={"draws": 1}), record(repeat=1, rules={"draws": 10}))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "repeats were played by different rules: draws 1, now 10" in found.message
    (found,) = verdicts(FLOOR, record(rules={"draws": 1}), record(repeat=1, rules={"draws": 1}))
    assert found.outcome is Outcome.PASSED
