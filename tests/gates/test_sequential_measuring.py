"""Batches that are joined are what one evaluation of the same samples would have been."""

from dataclasses import asdict, dataclass

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.ball import Ball
from robustsuite.core.errors import ModelError
from robustsuite.core.metric import Metric
from robustsuite.data.coerce import to_samples
from robustsuite.evaluation.record_files import load_samples
from robustsuite.plugins import registry
from robustsuite.pytest_plugin.measuring import measure
from robustsuite.pytest_plugin.robustness import Robustness
from robustsuite.report.report import Report
from robustsuite.results.deciding import GateFailure, Outcome
from robustsuite.results.deciding import settled as is_settled

BALL = Ball("linf", 0.1)


class Counting(nn.Module):
    """Three classes on four inputs; counts the samples that it answers without a gradient."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(4, 3)
        self.linear.weight.data = torch.randn(3, 4, generator=generator) * 6
        self.linear.bias.data.zero_()
        self._answered = 0

    def forward(self, x):
        if not torch.is_grad_enabled():
            self._answered += len(x)
        return self.linear(x - 0.5)


@pytest.fixture(scope="module")
def given():
    generator = torch.Generator().manual_seed(1)
    model, x = Counting(), torch.rand(500, 4, generator=generator)
    with torch.no_grad():
        y = model(x).argmax(1)
    y[::10] = (y[::10] + 1) % 3  # a tenth is wrong to begin with
    return model, (x, y)


def never(metric, found):
    return False


@pytest.fixture
def _own_plugins(monkeypatch):
    registry.discover()
    monkeypatch.setattr(registry.attacks, "_entries", dict(registry.attacks._entries))

    @rs.register.attack("asks", scenario="evasion", access="decision-based")
    @dataclass(frozen=True, kw_only=True)
    class Asks:
        """Ask about the brighter and the darker input; samples with odd ids ask once more."""

        def __call__(self, view, streams):
            rows = torch.arange(len(view.x))
            ends = [view.ball.project(view.x + side * view.ball.radius, view.x) for side in (1, -1)]
            wrong = view.labels(ends[0], rows) != view.y
            odd = rows[view.ids % 2 == 1]
            view.labels(ends[1][odd], odd)
            return torch.where(wrong[:, None], ends[0], ends[1])


@pytest.mark.usefixtures("_own_plugins")
@pytest.mark.parametrize("attack", ["fgsm", "pgd(steps=5)", "noise(extreme=True)", "deepfool", "asks"])
def test_joined_batches_are_one_evaluation(given, attack):
    model, data = given
    # What a doubt starts depends on who is judged together.
    attack = attack.removesuffix(")") + (", " if "(" in attack else "(") + "follow_up=False)"
    seen = measure(model, data, attack, BALL, never, seed=3)
    columns = load_samples(seen.report.folder, seen.found)
    # The same samples in the same order, with the ids that they have among all.
    samples = to_samples(data, classes=3, bounds=(0.0, 1.0)).take(columns["id"])
    whole = rs.evaluate(model, samples, [attack], BALL, seed=3)
    straight = whole.records[1]
    assert seen.look is seen.last
    assert sorted(columns["id"].tolist()) == list(range(500))
    for column, told in load_samples(whole.folder, straight).items():
        if column.startswith("payload."):
            continue  # pictures, of the first few samples
        if column == "passes":
            continue  # samples that share a batch may cost each other one
        torch.testing.assert_close(columns[column], told, equal_nan=True, rtol=1e-5, atol=1e-6)
    assert dict(seen.found.metrics).keys() == dict(straight.metrics).keys()
    for metric, told in straight.metrics.items():
        numbers = {name: value for name, value in asdict(told).items() if isinstance(value, (int, float))}
        same = {name: value for name, value in asdict(told).items() if name not in numbers}
        joined = asdict(seen.found.metrics[metric])
        assert {name: joined[name] for name in numbers} == pytest.approx(numbers, rel=1e-5), metric
        assert {name: value for name, value in joined.items() if name not in numbers} == same
    assert dict(seen.found.cost) == pytest.approx(dict(straight.cost), rel=0.05)  # the last bits may cost a step
    assert (seen.found.key, seen.found.status, seen.found.flags) == (straight.key, straight.status, straight.flags)
    clean = {k: v for k, v in seen.report.records[0].metrics.items() if k != "latency_ms"}
    assert clean == {k: v for k, v in whole.records[0].metrics.items() if k != "latency_ms"}


def test_no_sample_is_attacked_or_asked_twice(given):
    """Each batch plays new samples only, and the clean pass over all of them is not made again."""
    model, data = given
    model._answered = 0
    seen = measure(model, data, "fgsm", BALL, never)
    sequential, model._answered = model._answered, 0
    whole = rs.evaluate(model, data, ["fgsm"], BALL)
    assert seen.found.cost == whole.records[1].cost
    # Beside those of one evaluation: every further batch asks up to 64 samples again to see that the model is no coin.
    looks = 3
    assert sequential <= model._answered + (looks - 1) * 64


def test_it_stops_as_soon_as_it_is_settled(given):
    model, data = given
    told = []

    def second(metric, found):
        told.append((metric.n, found.metrics["robust_accuracy"].n))
        return len(told) == 2

    seen = measure(model, data, "fgsm", BALL, second)
    assert told == [(125, 125), (250, 250)]
    assert (seen.look.n, seen.last.n, seen.given) == (250, 500, 500)
    assert len(load_samples(seen.report.folder, seen.found)["id"].unique()) == 250
    assert seen.report.records[0].metrics["clean_accuracy"].n == 250


def test_an_early_look_is_part_of_a_later_one(given):
    """What is seen first is the same, wherever one stops: the samples' order depends on the seed alone."""
    model, data = given
    early = measure(model, data, "fgsm", BALL, lambda metric, found: True)
    late = measure(model, data, "fgsm", BALL, never)
    first, second = (load_samples(m.report.folder, m.found) for m in (early, late))
    assert torch.equal(first["id"], second["id"][:125])
    assert torch.equal(first["robust"], second["robust"][:125])


def test_every_look_has_each_class_in_its_share(given):
    model, (x, y) = given
    order = y.argsort()
    seen = measure(model, (x[order], y[order]), "fgsm", BALL, lambda metric, found: True)
    share = y[order][load_samples(seen.report.folder, seen.found)["id"]].bincount() / 125
    torch.testing.assert_close(share, y.bincount() / 500, atol=0.02, rtol=0)


def test_the_report_can_be_saved_and_read(given, tmp_path):
    model, data = given
    measure(model, data, "fgsm", BALL, never).report.save(tmp_path / "seen")
    kept = Report.load(tmp_path / "seen")
    assert len(kept.records) == 2
    assert len(load_samples(kept.folder, kept.records[1])["id"]) == 500
    assert kept.table().shape[0] == 1


class Late(nn.Module):
    """Answers NaN for bright inputs."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return torch.where(x[:, :1] > 0.95, float("nan"), x[:, :1]) * self.gain


def test_a_model_without_answers_is_refused_whenever_it_shows():
    x = torch.linspace(0, 1, 400).reshape(-1, 1)
    with pytest.raises(ModelError, match="finite logits"):
        measure(Late(), (x, torch.zeros(400, dtype=torch.long)), "noise", Ball("linf", 0.01), never)


@pytest.mark.usefixtures("_own_plugins")
def test_an_attack_that_raises_in_a_later_batch_is_an_error_of_the_whole(given):
    model, data = given
    calls = []

    @rs.register.attack("raises-later", scenario="evasion", access="blind")
    @dataclass(frozen=True, kw_only=True)
    class RaisesLater:
        """Raise when asked for the second time."""

        def __call__(self, view, streams):
            calls.append(len(view.x))
            if len(calls) > 1:
                raise ZeroDivisionError("planted")
            return view.x

    seen = measure(model, data, "raises-later", BALL, never)
    assert seen.metric is None
    assert seen.found.status == "error"
    assert "ZeroDivisionError: planted" in seen.found.message


@pytest.mark.usefixtures("_own_plugins")
def test_doubts_of_any_batch_are_doubts_of_the_whole(given):
    """An attack that leaves the ball in one batch alone: the flag stays, and so does the number of inputs."""
    model, data = given
    calls = []

    @rs.register.attack("leaves-once", scenario="evasion", access="blind")
    @dataclass(frozen=True, kw_only=True)
    class LeavesOnce:
        """Hand in one input outside the ball, the first time."""

        def __call__(self, view, streams):
            moved = view.x.clone()
            if not calls:
                moved[0] = 1 - moved[0]
            calls.append(1)
            return moved

    seen = measure(model, data, "leaves-once", BALL, never)
    assert "over-budget" in seen.found.flags, seen.found.message
    assert "few-samples" not in seen.found.flags
    assert "1 adversarial inputs lay outside" in seen.found.message


def test_a_floor_decides_early_or_takes_all(given):
    """The same model against floors far from and near to its rate."""
    model, data = given
    truth = rs.evaluate(model, data, ["fgsm"], BALL).records[1].metrics["robust_accuracy"].value
    gate = Robustness("t")
    far = gate.assert_robust(model, data, attack="fgsm", ball=BALL, at_least=truth - 0.25)
    assert far.metric.n < 500
    assert far.outcome is Outcome.PASSED
    with pytest.raises(GateFailure, match=r"^inconclusive: .* on 500 samples"):
        gate.assert_robust(model, data, attack="fgsm", ball=BALL, at_least=truth)
    with pytest.raises(GateFailure, match=r"^failed: .* on \d{2,3} samples(.|\n)*which settles it"):
        gate.assert_robust(model, data, attack="fgsm", ball=BALL, at_least=min(1.0, truth + 0.25))


@pytest.mark.parametrize(
    ("low", "high", "flags", "doubt", "expected"),
    [
        (0.6, 0.7, (), "", True),
        (0.3, 0.4, (), "", True),
        (0.4, 0.6, (), "", False),
        (0.4, 0.6, ("few-samples",), "", False),
        (0.4, 0.6, ("zero-gradients",), "", False),  # it may still turn out below the floor
        (0.6, 0.7, ("zero-gradients",), "", True),  # it can no longer
        (0.4, 0.6, ("nondeterministic",), "it draws", True),
        (0.4, 0.6, (), "the judge cannot tell", True),
    ],
)
def test_what_no_further_sample_changes_is_settled(low, high, flags, doubt, expected):
    metric = Metric(0.5, 100, low, high, "rate", "higher")
    assert is_settled(metric, rs_gate(), flags, doubt) is expected


def rs_gate():
    from robustsuite.core.gate import Gate

    return Gate(metric="robust_accuracy", at_least=0.5)
