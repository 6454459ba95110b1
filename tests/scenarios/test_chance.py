"""A model that does no better than guessing is flagged, wherever it is judged; an honest one is not."""

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.flags import describe
from robustsuite.core.gate import Gate
from robustsuite.core.intervals import interval
from robustsuite.pytest_plugin.measuring import measure
from robustsuite.pytest_plugin.robustness import Robustness
from robustsuite.results.deciding import GateFailure
from robustsuite.results.gates import judge
from robustsuite.scenarios.chance import doubt_chance

BALL = ("linf", 0.01)


def labels(n, classes):
    return torch.arange(n) % classes


def doubted(successes, y, classes):
    return bool(doubt_chance(torch.arange(len(y)) < successes, y, classes))


@pytest.mark.parametrize(("n", "classes"), [(100, 10), (1000, 10), (40, 2), (300, 3), (500, 100)])
def test_it_is_the_interval_that_excludes_chance_or_not(n, classes):
    y = labels(n, classes)
    chance = max(1 / classes, float(y.bincount().max()) / n)
    told = [doubted(k, y, classes) for k in range(n + 1)]
    assert told == [interval(k, n)[0] <= chance for k in range(n + 1)]
    assert told[round(chance * n)]
    assert not told[-1]


def test_the_most_frequent_class_is_a_guess_too():
    y = (torch.arange(200) >= 180).long()  # 90 % of one class
    assert doubted(180, y, 2)
    assert doubted(186, y, 2)
    assert not doubted(196, y, 2)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_too_few_samples_tell_nothing(n):
    assert not any(doubted(k, labels(n, 10), 10) for k in range(n + 1))
    assert not any(doubted(k, torch.zeros(200, dtype=torch.int64), 10) for k in (0, 20, 200))
    assert not any(doubted(k, labels(16, 2), 2) for k in range(17))


def test_honest_models_are_not_flagged_and_guessing_ones_are():
    """1,000 models each: of accuracy 0.6 on 50 samples of 10 classes, and guessing on 1,000."""
    generator = torch.Generator().manual_seed(0)
    y = labels(50, 10)
    honest = torch.rand(1000, 50, generator=generator) < 0.6
    assert sum(bool(doubt_chance(right, y, 10)) for right in honest) == 0
    y = labels(1000, 10)
    guessing = torch.rand(1000, 1000, generator=generator) < 0.1
    assert sum(bool(doubt_chance(right, y, 10)) for right in guessing) >= 960


@pytest.fixture(scope="module")
def problem():
    """A network that names the brightest of 10 pixels, and one whose weights were never loaded."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(120, 10, generator=generator)
    good = nn.Linear(10, 10, bias=False)
    good.weight.data = 10 * torch.eye(10)
    bad = nn.Linear(10, 10)
    bad.weight.data, bad.bias.data = torch.eye(10).roll(1, 0), 9 * torch.eye(10)[3]
    return good, bad, x, x.argmax(1)


def test_clean_and_attacked_records_say_it_once(problem):
    good, bad, x, y = problem
    for record in rs.evaluate(bad, (x, y), "fgsm", BALL).records:
        assert record.flags.count("near-chance") == 1, record
    for record in rs.evaluate(good, (x, y), "fgsm", BALL).records:
        assert "near-chance" not in record.flags
    assert "labels in another order?" in describe("near-chance").remedy


def test_nothing_passes_by_it_and_what_fails_has_failed(problem):
    _, bad, x, y = problem
    report = rs.evaluate(bad, (x, y), "fgsm", BALL)
    asked = {"passes": 0.01, "fails": 0.4}
    outcomes = {
        name: judge([Gate(metric="robust_accuracy", at_least=bound, attack="fgsm")], report)[0].outcome.value
        for name, bound in asked.items()
    }
    assert outcomes == {"passes": "inconclusive", "fails": "failed"}
    # The number of parameters is what it is.
    assert judge([Gate(metric="parameters", at_most=1000)], report)[0].outcome.value == "passed"


def test_a_test_of_pytest_says_it(problem):
    good, bad, x, y = problem
    with pytest.raises(GateFailure, match=r"^inconclusive: .*near-chance.*inputs not normalised"):
        Robustness("here").assert_robust(bad, (x, y), attack="fgsm", ball=BALL, at_least=0.01)
    with pytest.raises(GateFailure, match=r"^failed: .*near-chance"):
        Robustness("here").assert_robust(bad, (x, y), attack="fgsm", ball=BALL, at_least=0.5)
    x = x.repeat(20, 1)
    verdict = Robustness("here").assert_robust(good, (x, x.argmax(1)), attack="fgsm", ball=BALL, at_least=0.7)
    assert "near-chance" not in verdict.flags


def test_parts_that_are_joined_are_doubted_as_a_whole(problem):
    """A model that is right on 25 % is told from chance by 400 samples, and not by the first look's."""
    good, _, x, _ = problem
    x = x.repeat(4, 1)[:400]
    y = torch.where(torch.arange(400) % 4 == 0, x.argmax(1), (x.argmax(1) + 1) % 10)
    seen = measure(good, (x, y), "fgsm", BALL, lambda *_: False)
    assert seen.look.n == 400
    assert "near-chance" not in seen.found.flags
    assert seen.found.data["n"] == 400
    assert seen.found.data == seen.report.records[0].data
    bad = measure(good, (x, (y + 5) % 10), "fgsm", BALL, lambda *_: False)
    assert bad.found.flags.count("near-chance") == 1


def test_one_answer_for_everything_is_chance_however_few_there_are():
    y = torch.cat([torch.zeros(72), torch.arange(1, 9)]).long()
    assert doubt_chance(y == 0, y, 10) == ("near-chance",)
    assert doubt_chance((y == 0) | (y == 5), y, 10) == ()  # it knows another class
    assert doubt_chance(y[:76] == 0, y[:76], 10) == ()  # four others say too little
