"""What a stranger's judge, filter or training is told where it goes wrong."""

import re
from dataclasses import replace

import pytest
import torch

import robustsuite as rs
from robustsuite.core.errors import RequestError, RobustsuiteError
from robustsuite.core.metric import Metric, Metrics
from robustsuite.scenarios import Utility
from robustsuite.testing import tiny_samples


@pytest.mark.parametrize("plain", [80, 0.5])
def test_a_figure_that_is_a_plain_number_is_named(plain):
    with pytest.raises(RequestError, match=f"expected a Metric for each figure, got asked={plain}"):
        Metrics({"auc": Metric(0.5), "asked": plain})


def test_a_filter_that_keeps_nothing_is_thought_of():
    samples = tiny_samples(8)
    with pytest.raises(RequestError, match="what a filter keeps"):
        samples.take(samples.y < 0)


def judged_as(monkeypatch, change):
    """The record of clean accuracy, with what its judge measured changed."""
    honest = Utility.score

    def score(self, victim, moves):
        found = honest(self, victim, moves)
        return replace(found, values=change(found.values))

    monkeypatch.setattr(Utility, "score", score)
    samples = tiny_samples(8)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(samples.x[0].numel(), samples.classes))
    report = rs.evaluate(model, (samples.x, samples.y), ["noise"], ("linf", 0.1))
    return next(record for record in report.records if record.scenario == "utility")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda values: {**values, "asked": Metric(1.0)},
            r"expected figures that Utility declares, got values=\['asked'",
        ),
        (lambda values: {}, "expected at least one figure from Utility"),
    ],
)
def test_a_judge_that_measures_something_else_is_an_error(monkeypatch, change, told):
    """A figure without words could not be read, and a cell without any would look measured."""
    record = judged_as(monkeypatch, change)
    assert record.status == "error"
    assert re.search(told, record.message)


def test_a_figure_that_could_not_be_measured_is_none(monkeypatch):
    record = judged_as(monkeypatch, lambda values: {**values, "latency_ms": Metric(float("nan"))})
    assert record.status == "ok"
    assert "latency_ms" not in record.metrics
    assert "clean_accuracy" in record.metrics


def test_a_game_that_packs_and_cannot_unpack_is_named():
    with pytest.raises(RobustsuiteError, match="expected a game that unpacks what it packs, got Utility"):
        Utility().unpack({}, {})
