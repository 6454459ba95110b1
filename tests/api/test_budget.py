"""Within a budget of time: what is judged is judged whole, what is not is said, and what was done is not lost."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.errors import RequestError
from robustsuite.core.gate import Gate
from robustsuite.core.intervals import clopper_pearson
from robustsuite.evaluation.record_files import load_samples
from robustsuite.plugins import registry
from robustsuite.pytest_plugin.robustness import Robustness
from robustsuite.report.report import Report
from robustsuite.results import gates
from robustsuite.results.deciding import GateFailure, Outcome
from robustsuite.results.time_limits import sentences


@dataclass
class Time:
    """That which a budget is measured by; here only what is dear takes any, so that a busy machine changes nothing."""

    now: float = 100.0


TIME = Time()
BALL = ("linf", 0.1)
QUICK = {"follow_up": False}


class Threshold(nn.Module):
    """The first pixel above one half."""

    def __init__(self, gain=4.0):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x):
        z = self.gain * (x.flatten(1)[:, 0] - 0.5)
        return torch.stack([-z, z], 1)


class SlowGradients(Threshold):
    """Takes long wherever a gradient may be asked for."""

    def forward(self, x):
        if torch.is_grad_enabled():
            TIME.now += 0.2
        return super().forward(x)


def pixels(n, robust=0.3):
    """Samples near the threshold, which break, and far from it; which is which does not go with place or label."""
    generator = torch.Generator().manual_seed(5)
    far, high = torch.rand(n, generator=generator) < robust, torch.rand(n, generator=generator) < 0.5
    x = 0.5 + torch.where(high, 1.0, -1.0) * torch.where(far, 0.3, 0.05)
    return x[:, None], high.long()


@pytest.fixture(autouse=True)
def _own_time_and_plugins(monkeypatch):
    monkeypatch.setattr("robustsuite.evaluation.clock.monotonic", lambda: TIME.now)
    registry.discover()
    monkeypatch.setattr(registry.attacks, "_entries", dict(registry.attacks._entries))

    @rs.register.attack("dear", scenario="evasion", access="white-box")
    @dataclass(frozen=True, kw_only=True)
    class Dear:
        """Move over the threshold; samples that stay robust take long.

        Args:
            seconds: For each of them.
            raises: Whether it raises.
        """

        seen: ClassVar[list] = []
        stop: ClassVar[int] = 0  # samples after which it is interrupted
        seconds: float = 0.0
        raises: bool = False

        def __call__(self, view, streams):
            if self.raises:
                raise ValueError("no more")
            rows = torch.arange(len(view.y))
            moved = view.ball.project(view.x + torch.where(view.y == 1, -1.0, 1.0)[:, None], view.x)
            broken = view.broken(moved, rows)
            for i, row in zip(view.ids.tolist(), rows, strict=True):
                if self.stop and len(self.seen) >= self.stop:
                    raise KeyboardInterrupt
                self.seen.append(i)
                if not broken[row]:
                    TIME.now += self.seconds
                    view.broken(moved[row : row + 1], row[None])
            return moved

    Dear.seen.clear()


def seen():
    return registry.attacks.get("dear").cls.seen


def dear(seconds, **budget):
    attack = rs.attack("dear", seconds=seconds)
    return rs.evaluate(Threshold(), pixels(400), [attack], BALL, rules=QUICK, seed=3, **budget)


def test_time_ends_it_between_batches_and_what_is_not_judged_is_said():
    started = TIME.now
    report = dear(1.0, budget="1m")  # all of it takes about two
    assert 54 < TIME.now - started < 60
    clean, attacked = report.records
    told = attacked.budget
    judged, given = told["judged"], told["given"]
    assert 16 <= judged < given == 400
    ids = load_samples(report.folder, attacked)["id"]
    assert len(ids) == judged == attacked.metrics["robust_accuracy"].n == clean.metrics["clean_accuracy"].n
    assert attacked.data["n"] == judged
    assert attacked.message.startswith(f"{judged} of 400 samples judged in ")
    (sentence,) = sentences(report.joined)
    assert sentence.startswith(f"{judged} of 400 samples in ")
    assert "; all 400 would take about " in sentence
    assert len(seen()) == len(set(seen())) >= judged  # none twice; those of a batch that was cut off have no verdict


def test_verdicts_are_those_of_an_evaluation_without_a_budget():
    """Also of a part: a budget changes who is judged and no verdict."""
    whole = dear(0.0)
    robust = load_samples(whole.folder, whole.records[1])
    truth = dict(zip(robust["id"].tolist(), robust["robust"].tolist(), strict=True))
    ample, short = dear(0.0, budget="1h"), dear(1.0, budget="1m")
    for report in (ample, short):
        found = load_samples(report.folder, report.records[1])
        assert all(truth[i] == r for i, r in zip(found["id"].tolist(), found["robust"].tolist(), strict=True))
    assert ample.records[1].budget["judged"] == 400
    assert ample.records[1].metrics["robust_accuracy"].value == whole.records[1].metrics["robust_accuracy"].value
    (sentence,) = sentences(ample.joined)
    assert sentence.startswith("all 400 samples in ")
    assert "would take" not in sentence
    assert sentences(whole.joined) == []
    assert not whole.records[1].budget


def test_intervals_are_wide_enough_for_stopping_anywhere_wherever_they_are_told():
    report = dear(1.0, budget="1m")
    level, judged = report.records[1].budget["level"], report.records[1].budget["judged"]
    assert 0.99 < level < 1
    for record in report.joined:  # the worst case among them
        for name in ("clean_accuracy", "robust_accuracy"):
            if name in record.metrics:
                metric = record.metrics[name]
                assert (metric.low, metric.high) == clopper_pearson(round(metric.value * judged), judged, level)
    saved = Report.load(report.save(report.folder.with_name(report.folder.name + "-saved")))
    assert [r.metrics for r in saved.joined] == [r.metrics for r in report.joined]
    assert saved.records[1].budget == report.records[1].budget


def test_too_short_for_any_sample_is_no_figure_and_no_verdict():
    report = rs.evaluate(Threshold(), pixels(40, 1.0), [rs.attack("dear", seconds=1)], BALL, budget=10)
    assert all(record.status == "inconclusive" and not record.metrics for record in report.records)
    assert sentences(report.joined) == ["10s were too short to judge any of the 40 samples"]
    (verdict,) = gates.judge([Gate(metric="robust_accuracy", attack="dear", at_least=0.1)], report)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "time ended before the first" in verdict.message
    (joined,) = gates.judge([Gate(metric="robust_accuracy", at_least=0.1)], report)
    assert "time ended before the first" in joined.message


def test_no_time_for_the_checks_is_said_and_supports_no_verdict():
    report = rs.evaluate(SlowGradients(), pixels(40), ["dear"], BALL, budget=3)
    (_, found) = report.records
    assert found.status == "inconclusive"
    assert "unexamined" in found.flags
    assert "time ended before its sanity checks" in found.message
    assert found.budget["judged"] == found.metrics["robust_accuracy"].n >= 16
    (verdict,) = gates.judge([Gate(metric="robust_accuracy", attack="dear", at_least=0.01)], report)
    assert verdict.outcome is Outcome.INCONCLUSIVE


def test_an_interrupted_evaluation_goes_on_with_the_samples_so_far(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.attacks.get("dear").cls, "stop", 200)
    with pytest.raises(KeyboardInterrupt):
        dear(0.0, budget=rs.TimeBudget("1h", keep=tmp_path))
    monkeypatch.setattr(registry.attacks.get("dear").cls, "stop", 0)
    assert len(seen()) == 200
    seen().clear()
    report = dear(0.0, budget=rs.TimeBudget("1h", keep=tmp_path))
    assert 200 <= len(seen()) < 400  # of the batch that was interrupted nothing is left, of those before it all
    straight = dear(0.0, budget="1h")
    assert report.records[1].metrics == straight.records[1].metrics


def test_more_time_goes_on_where_less_ended_and_counts_what_was_spent(tmp_path):
    short = dear(1.0, budget=rs.TimeBudget("1m", keep=tmp_path))
    before, used = short.records[1].budget, len(set(seen()))
    seen().clear()
    spent = dear(1.0, budget=rs.TimeBudget("1m", keep=tmp_path))  # there is nothing left of it
    assert spent.records[1].budget["judged"] == before["judged"]
    assert seen() == []
    more = dear(1.0, budget=rs.TimeBudget("1h", keep=tmp_path))
    assert more.records[1].budget["judged"] == 400
    assert more.records[1].budget["spent"] > before["spent"]
    assert len(seen()) == 400 - before["judged"]
    assert used >= before["judged"]


def test_another_model_in_the_same_folder_starts_anew(tmp_path):
    dear(0.0, budget=rs.TimeBudget("1h", keep=tmp_path))
    seen().clear()
    limit = rs.TimeBudget("1h", keep=tmp_path)
    rs.evaluate(Threshold(5.0), pixels(400), [rs.attack("dear")], BALL, rules=QUICK, seed=3, budget=limit)
    assert len(seen()) == 400


def test_a_part_is_never_compared_with_a_whole_in_silence(tmp_path):
    """With less than half of the samples in common it is refused, by name; with more, those in common are compared."""
    whole, few = (dear(1.0, budget=time).save(tmp_path / time) for time in ("1h", "30s"))
    judged = Report.load(few).records[1].budget["judged"]
    found = rs.compare(whole, few)
    row = next(row for row in found.rows if row.attack == "dear" and row.metric == "robust_accuracy")
    assert (found.outcome, row.p) == ("inconclusive", None)
    assert f"other samples: {judged} of 400 and {judged} are common" in row.message
    most = dear(1.0, budget="100s").save(tmp_path / "most")
    judged = Report.load(most).records[1].budget["judged"]
    row = next(r for r in rs.compare(whole, most).rows if r.attack == "dear" and r.metric == "robust_accuracy")
    assert row.n == judged > 200
    assert f"{judged}" in row.message


def test_a_gate_judges_the_interval_that_was_reached_and_says_what_time_settles_it():
    report = dear(1.0, budget="1m")
    metric = report.records[1].metrics["robust_accuracy"]
    clear, close = metric.low - 0.02, metric.value - 0.03
    passed, open_ = gates.judge(
        [Gate(metric="robust_accuracy", attack="dear", at_least=bound) for bound in (clear, close)], report
    )
    assert passed.outcome is Outcome.PASSED
    assert open_.outcome is Outcome.INCONCLUSIVE
    assert "samples" in open_.message
    assert "about" in open_.message.partition("only 400 are given")[2] or "they take about" in open_.message


def test_an_assertion_judges_the_interval_that_was_reached():
    holds = Robustness("test").assert_robust
    asked = {"attack": "dear(seconds=1.0, follow_up=False)", "ball": BALL, "seed": 3}
    started = TIME.now
    passed = holds(Threshold(), pixels(400), **asked, at_least=0.1, budget="1m")
    assert passed.metric.n < 200  # it was settled
    assert TIME.now - started < 40
    with pytest.raises(GateFailure) as open_:
        holds(Threshold(), pixels(400), **asked, at_least=0.3, budget="1m")
    assert str(open_.value).startswith("inconclusive: robust_accuracy 0.")
    assert "of the 400 samples given in 5" in str(open_.value)
    assert "more samples" in str(open_.value)
    with pytest.raises(GateFailure, match="inconclusive: no robust_accuracy; time ended before the first 17 samples"):
        holds(Threshold(), pixels(400), **asked, at_least=0.3, budget="2s")
    with pytest.raises(RequestError, match="expected a time above 0"):
        holds(Threshold(), pixels(400), **asked, at_least=0.3, budget="2x")


def test_an_attack_that_raises_ends_it_at_once():
    started = TIME.now
    attack = rs.attack("dear", seconds=1.0, raises=True)
    report = rs.evaluate(Threshold(), pixels(400), [attack], BALL, rules=QUICK, budget="1h")
    assert report.records[1].status == "error"
    assert "no more" in report.records[1].message
    assert TIME.now - started < 60


def test_games_that_are_judged_as_a_whole_have_no_budget():
    with pytest.raises(RequestError, match="a budget stops between samples, and inversion is judged as a whole"):
        rs.evaluate(Threshold(), pixels(40), ["class-mean"], budget="10s", train=pixels(40))


@pytest.mark.parametrize("wrong", [0, "10x", "-1s", float("nan"), True])
def test_what_is_no_time_is_refused_before_anything_is_asked(wrong):
    with pytest.raises(RequestError, match="expected a time above 0, got budget="):
        rs.evaluate(None, None, budget=wrong)
