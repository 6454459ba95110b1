"""Three outcomes from known intervals, and advice that is true."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from robustsuite.core.errors import RequestError
from robustsuite.core.intervals import clopper_pearson, interval, wilson
from robustsuite.core.metric import Metric
from robustsuite.evaluation.looks import looks
from robustsuite.pytest_plugin.folders import folder_name
from robustsuite.pytest_plugin.robustness import Robustness
from robustsuite.results.deciding import GateFailure, Outcome, decide, samples_needed


def measured(successes, n):
    low, high = wilson(successes, n)
    return Metric(successes / n, n, low, high, "rate", "higher")


@pytest.mark.parametrize(
    ("successes", "n", "floor", "outcome"),
    [
        (90, 100, 0.80, "passed"),  # [.826, .945]
        (90, 100, 0.83, "inconclusive"),
        (90, 100, 0.90, "inconclusive"),
        (90, 100, 0.94, "inconclusive"),
        (90, 100, 0.95, "failed"),
        (0, 100, 0.0, "passed"),
        (100, 100, 1.0, "inconclusive"),  # no number of samples shows that none is ever broken
        (0, 3, 0.5, "inconclusive"),
        (0, 100, 0.05, "failed"),
    ],
)
def test_outcomes(successes, n, floor, outcome):
    verdict = decide(measured(successes, n), floor, name="robust_accuracy")
    assert verdict.outcome.value == outcome
    assert verdict.message.startswith(f"{outcome}: robust_accuracy {successes / n:.3f} [")
    assert f"on {n} samples, asked for at least {floor:g}" in verdict.message


def test_the_ends_of_the_interval_belong_to_it():
    assert decide(Metric(0.6, 50, 0.5, 0.7), 0.5, name="r").outcome is Outcome.PASSED
    assert decide(Metric(0.6, 50, 0.5, 0.7), 0.7, name="r").outcome is Outcome.INCONCLUSIVE


def test_without_an_interval_nothing_is_decided():
    assert decide(Metric(0.99, 50), 0.5, name="r").outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("floor", [0.1, 0.45, 0.62, 0.95])
def test_so_many_samples_decide_four_fresh_runs_in_five_and_hardly_fewer_do(rate, floor):
    def decided(n):
        """The mass of every outcome whose interval leaves the floor out, added up."""
        ends = [interval(k, n) for k in range(n + 1)]
        chances = binom.pmf(np.arange(n + 1), n, rate)
        return sum(p for p, (low, high) in zip(chances, ends, strict=True) if low >= floor or high < floor)

    n = samples_needed(rate, floor)
    assert decided(n) >= 0.8
    assert decided(int(n * 0.7)) < 0.8  # whole samples make the last few steps uneven


@pytest.mark.parametrize(("rate", "floor"), [(0.6, 0.55), (0.85, 0.9), (0.97, 0.95)])
def test_a_fresh_sequential_run_of_the_size_advised_decides_four_times_in_five(rate, floor):
    """With the levels of its own looks, not with those of the plan that could not decide."""
    n = samples_needed(rate, floor, more_than=100, bounds=lambda k, n: looks(n)[-1].interval(k))
    rng = np.random.default_rng(0)
    decided = 0
    for _ in range(1000):
        right = rng.random(n) < rate
        ends = [look.interval(int(right[: look.n].sum())) for look in looks(n)]
        decided += any(low >= floor or high < floor for low, high in ends)
    assert decided / 1000 >= 0.8 - 0.025  # two standard errors


def test_samples_needed_by_hand():
    """All of n succeed: the exact lower end is 0.025 ** (1 / n), so 0.9 takes n >= log 0.025 / log 0.9 = 35.01."""
    assert samples_needed(1.0, 0.9) == 36
    assert samples_needed(0.5, 0.5) is None
    assert samples_needed(1.0, 0.9, more_than=50) == 51


def test_advice_names_how_many_more():
    verdict = decide(measured(60, 100), 0.55, name="robust_accuracy")
    needed = samples_needed(0.6, 0.55, more_than=100)
    assert 700 < needed < 800
    assert f"about {needed - 100} more samples would probably settle it" in verdict.message
    assert f"a run on {needed} samples decides with 80 % probability" in verdict.message
    near = decide(measured(50, 100), 0.5, name="robust_accuracy")
    assert "no practical number of samples settles it" in near.message


@pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan"), "0.4"])
def test_floors_that_are_no_rates(floor):
    with pytest.raises(RequestError, match="at_least"):
        decide(measured(5, 10), floor, name="r")


@pytest.mark.parametrize(
    ("flags", "high", "low"),
    [
        (("few-samples",), "passed", "failed"),
        (("catastrophic-overfitting",), "passed", "failed"),
        (("zero-gradients",), "inconclusive", "failed"),
        (("found-not-returned", "few-samples"), "inconclusive", "failed"),
        (("over-budget", "not-adaptive"), "inconclusive", "failed"),
        (("nondeterministic",), "inconclusive", "inconclusive"),
        (("nondeterministic", "zero-gradients"), "inconclusive", "inconclusive"),
        (("somebody-elses-doubt",), "inconclusive", "inconclusive"),
    ],
)
def test_doubts_withhold_a_verdict_unless_they_can_only_flatter(flags, high, low):
    above, below = (decide(measured(s, 100), 0.5, name="r", flags=flags) for s in (99, 1))
    assert above.outcome.value == high
    assert below.outcome.value == low


def test_a_doubt_that_escalation_settled_withholds_nothing():
    flags = ("resolved:zero-gradients",)
    for successes, outcome in ((95, Outcome.PASSED), (2, Outcome.FAILED)):
        metric = Metric(successes / 100, 100, *interval(successes, 100), "rate", "higher")
        assert decide(metric, 0.5, name="robust_accuracy", flags=flags).outcome is outcome


def test_a_doubt_says_what_was_seen_and_what_settles_it():
    message = decide(measured(99, 100), 0.5, name="r", flags=("zero-gradients",)).message
    assert "flagged zero-gradients (many input gradients are exactly zero" in message
    assert "to settle it: add an attack" in message


def test_a_judge_that_cannot_tell_is_heard():
    verdict = decide(measured(99, 100), 0.5, name="r", doubt="the coin rolled away")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "the coin rolled away" in verdict.message
    assert decide(measured(1, 100), 0.5, name="r", doubt="the coin rolled away").outcome is Outcome.INCONCLUSIVE


def test_folder_names_are_apart_and_safe():
    names = [
        "tests/test_a.py::test_x",
        "tests/test_b.py::test_x",
        "tests/test_a.py::TestK::test_x",
        "tests/test_a.py::test_x[1/2]",
        "tests/test_a.py::test_x[1:2]",
        "tests/test_a.py::test_x[1 2]",
        "../outside/test_a.py::test_x",
        "tests/test_a.py::test_x[../../../etc/passwd]",
        "tests/test_a.py::test_x[" + "long" * 200 + "]",
        "tests/test_a.py::test_x[" + "long" * 201 + "]",
        "..",
        "",
    ]
    made = [folder_name(name) for name in names]
    assert made[0] == "tests.test_a.test_x"
    assert len(set(made)) == len(names)
    for name in made:
        assert name
        assert "/" not in name
        assert "\\" not in name
        assert not name.startswith(".")
        assert len(name) <= 120


class Threshold(nn.Module):
    """Class 1 where the single pixel is above one half; margins are known exactly."""

    def __init__(self, gain=4.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x):
        z = self.gain * (x.flatten(1)[:, 0] - 0.5)
        return torch.stack([-z, z], 1)


def pixels(n, near):
    """So many samples, of which `near` lie within 0.1 of the border; half of each class."""
    far = torch.where(torch.arange(n) % 2 == 0, 0.2, 0.8)
    close = torch.where(torch.arange(n) % 2 == 0, 0.45, 0.55)
    x = torch.where(torch.arange(n) < near, close, far).reshape(-1, 1)
    return x, (x[:, 0] > 0.5).long()


def test_a_gate_returns_the_verdict_that_passed(tmp_path):
    told = []
    gate = Robustness("t.py::test", folder=tmp_path, record=lambda *pair: told.append(pair))
    verdict = gate.assert_robust(Threshold(), pixels(100, 10), attack="fgsm", ball=("linf", "1/10"), at_least=0.8)
    low, high = clopper_pearson(90, 100)
    assert verdict.outcome is Outcome.PASSED
    assert dict(told) == {
        "robustsuite_outcome": "passed",
        "robustsuite_measured": verdict.message,
        "robustsuite_robust_accuracy_value": 0.9,
        "robustsuite_robust_accuracy_low": low,
        "robustsuite_robust_accuracy_high": high,
        "robustsuite_robust_accuracy_n": 100,
        "robustsuite_samples_used": 100,
        "robustsuite_samples_given": 100,
        "robustsuite_at_least": 0.8,
        "robustsuite_report": str(tmp_path / "t.test"),
    }


def test_fewer_samples_each_class_in_its_share(tmp_path):
    from robustsuite.report.report import Report

    x, y = pixels(400, 0)
    order = y.argsort()  # sorted by class, so that the first rows would hold one class only
    gate = Robustness("t.py::test", samples=60, folder=tmp_path, command="unused")
    with pytest.raises(GateFailure) as failed:
        gate.assert_robust(Threshold(), (x[order], y[order]), attack="fgsm", ball=("linf", 0.1), at_least=0.97)
    assert "judged 60 of the 400 samples given; raise or drop --robustsuite-samples" in str(failed.value)
    from robustsuite.evaluation.record_files import load_samples

    report = Report.load(tmp_path / "t.test")
    ids = load_samples(report.folder, report.records[1])["id"]
    assert y[order][ids].bincount().tolist() == [30, 30]


def test_as_many_samples_as_there_are_are_all_judged():
    gate = Robustness("t.py::test", samples=500)
    verdict = gate.assert_robust(Threshold(), pixels(100, 0), attack="fgsm", ball=("linf", 0.1), at_least=0.9)
    assert "on 100 samples" in verdict.message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"attack": "badnets"}, "an evasion attack, got attack='badnets'; robust accuracy is measured under evasion"),
        ({"attack": "none"}, "an evasion attack"),
        ({"attack": "pdg"}, "did you mean pgd"),
        ({"ball": "linf"}, r"write \('linf', 8 / 255\)"),
        ({"ball": ("linf",)}, r"ball=\('linf',\)"),
        ({"ball": ("linf", -1)}, "radius"),
        ({"at_least": 40}, "at_least=40"),
    ],
)
def test_wrong_requests(change, told):
    request = {"attack": "fgsm", "ball": ("linf", 0.1), "at_least": 0.5, **change}
    with pytest.raises(RequestError, match=told):
        Robustness("t").assert_robust(Threshold(), pixels(10, 0), **request)


def test_masked_gradients_are_inconclusive_however_high_the_number():
    class Saturated(Threshold):
        def forward(self, x):
            return (super().forward(x) * 1e6).clamp(-50, 50)

    with pytest.raises(GateFailure, match=r"^inconclusive: robust_accuracy 1\.000.*flagged zero-gradients"):
        Robustness("t").assert_robust(Saturated(), pixels(200, 100), attack="fgsm", ball=("linf", 0.1), at_least=0.5)


def test_a_coin_is_inconclusive():
    class Coin(Threshold):
        def forward(self, x):
            return super().forward(x) + torch.randn(len(x), 2)

    with pytest.raises(GateFailure, match=r"^inconclusive: .*flagged nondeterministic"):
        Robustness("t").assert_robust(Coin(), pixels(200, 0), attack="noise", ball=("linf", 0.1), at_least=0.5)
