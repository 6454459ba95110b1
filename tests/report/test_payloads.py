"""Payloads check themselves, and come back from a record and its file as they were."""

import dataclasses
import json
import math

import pytest
import torch

from robustsuite.core.errors import RequestError
from robustsuite.core.metric import Metric
from robustsuite.core.payloads import KINDS, Cost, History, Images, Scores, Sweep, outcomes, pack, unpack
from robustsuite.evaluation.judge import judged
from robustsuite.evaluation.record_files import payloads_of, read
from robustsuite.evaluation.records import Record
from robustsuite.evaluation.resolve import Game
from robustsuite.scenarios.utility import Utility
from robustsuite.testing import tiny_victim

DRAW = torch.Generator().manual_seed(3)
ODD = "<b>&\"' …\u2028{{ 7*7 }}"
EVERY = (
    Scores("attack scores", torch.tensor([0.1, -math.inf, 3e-39, math.inf]), torch.tensor([True, False, True, False])),
    Scores(ODD, torch.randn(5, generator=DRAW).double(), torch.arange(5) > 2, positives="members", negatives=ODD),
    Images(
        "moved",
        (("before", torch.rand(2, 1, 3, 3, generator=DRAW)), (ODD, torch.rand(2, 1, 3, 3, generator=DRAW))),
        captions=("1", ODD),
        marked=(False, True),
        bounds=(0.0, 1.0),
        change=("before", ODD),
        shared=True,
    ),
    Images("one row", (("only", torch.rand(3, 4, generator=DRAW).half()),)),
    Sweep(
        "backdoor success",
        "fraction",
        ((0.001, Metric(0.25, 40, 0.1, 0.4, "rate", "lower")), (0.1, Metric(math.inf, unit="l2"))),
        through=((0.0, 0.2), (1.0, 0.3)),
        own=0.001,
        apart="with follow-ups",
        note=ODD,
    ),
    History("training", ({"epoch": 0.0, "loss": math.nan}, {"epoch": 1.0, "loss": 0.5, "tensor": 1.0, "metric": 2.0})),
    Cost("passes", {"forwards": 10, "queries": 0}, torch.tensor([0.0, 3.0, math.inf]).double(), spent=9),
    Cost("passes", {}),
)


def same(one, other):
    """Bit-equal, tensors and NaN too."""
    if isinstance(one, torch.Tensor):
        return (
            one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
        )
    if dataclasses.is_dataclass(one):
        fields = [f.name for f in dataclasses.fields(one)]
        return type(one) is type(other) and all(same(getattr(one, f), getattr(other, f)) for f in fields)
    if isinstance(one, (tuple, list)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and (one == other or (one != one and other != other))


def test_every_kind_is_here():
    assert {type(payload) for payload in EVERY} == set(KINDS.values())


def test_come_back_from_a_record_and_its_file_bit_by_bit(maker):
    described, tensors = pack(EVERY)
    maker.add("none", "x", "evasion", {"id": torch.arange(4), **tensors}, payloads=described)
    (record,) = read(maker.folder / "records.jsonl")
    found = payloads_of(record, maker.folder)
    assert len(found) == len(EVERY)
    for before, after in zip(EVERY, found, strict=True):
        assert same(before, after), after
    assert Record.parse(record.line()).line() == record.line()


def test_a_record_without_them_is_written_as_before(maker):
    maker.utility("none", torch.ones(10, dtype=torch.bool))
    assert "payloads" not in json.loads((maker.folder / "records.jsonl").read_text())


def test_what_a_judge_carries_reaches_the_record(maker):
    class Carrying(Utility):
        def score(self, victim, moves):
            return dataclasses.replace(super().score(victim, moves), payloads=EVERY)

    blank = Record(
        key="k", order=0, suite="s", dataset="d", model="m", defense="none", attack="none", scenario="utility"
    )
    victim = tiny_victim(101)
    record = judged(blank, Game(None, lambda view, streams: None, Carrying()), victim, maker.folder)
    assert all(map(same, EVERY, payloads_of(record, maker.folder)))
    nowhere = judged(blank, Game(None, lambda view, streams: None, Carrying()), victim, None)
    assert nowhere.payloads == () == payloads_of(nowhere, None), "tensors without a file are no payload"


SCORED = {"title": "t", "scores": torch.rand(3), "positive": torch.ones(3, dtype=torch.bool)}
ROWS = (("a", torch.rand(2, 1, 2, 2)),)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (Scores, SCORED | {"title": 3}, "expected text, got title=3"),
        (Scores, SCORED | {"scores": torch.arange(3)}, "floating scores"),
        (Scores, SCORED | {"scores": torch.tensor([0.0, math.nan, 1.0])}, "without NaN"),
        (Scores, SCORED | {"positive": torch.ones(3)}, "a bool tensor"),
        (Scores, SCORED | {"positive": torch.ones(2, dtype=torch.bool)}, "a bool tensor"),
        (Scores, SCORED | {"scores": [1.0, 2.0, 3.0]}, "expected a tensor, got scores='list'"),
        (Images, {"title": "t", "rows": ()}, "rows of different names"),
        (Images, {"title": "t", "rows": ROWS * 2}, "rows of different names"),
        (Images, {"title": "t", "rows": (*ROWS, ("b", torch.rand(3, 1, 2, 2)))}, "in every row"),
        (Images, {"title": "t", "rows": ROWS, "captions": ("one",)}, "2 captions or none"),
        (Images, {"title": "t", "rows": ROWS, "captions": ("one", 2)}, "expected text, got caption=2"),
        (Images, {"title": "t", "rows": ROWS, "change": ("a", "c")}, "two of"),
        (Sweep, {"title": "t", "over": "radius", "points": ((0.2, Metric(1.0)), (0.1, Metric(1.0)))}, "ascending"),
        (Sweep, {"title": "t", "over": "radius", "points": ((0.2, 0.5),)}, "a Metric at each point"),
        (Sweep, {"title": "t", "over": "radius", "points": (("x", Metric(1.0)),)}, "expected a number"),
        (Sweep, {"title": "t", "over": "radius", "points": ((math.inf, Metric(1.0)),)}, "expected a number"),
        (History, {"title": "t", "rows": ({"loss": "high"},)}, "expected a number, got loss='high'"),
        (History, {"title": "t", "rows": (3,)}, "figures by name"),
        (Cost, {"title": "t", "counts": {"forwards": -1}}, "at least 0, got forwards=-1"),
        (Cost, {"title": "t", "counts": {}, "until_broken": torch.tensor([math.nan])}, "floating passes"),
    ],
)
def test_refuse_what_they_are_not(kind, fields, words):
    with pytest.raises(RequestError, match=words):
        kind(**fields)


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"kind": "pictures", "title": "t"},
        {"kind": "scores", "title": "t"},
        {"kind": "scores", "title": "t", "scores": {"tensor": "payload.9.scores"}, "positive": {"tensor": "b"}},
        {"kind": "history", "title": "t", "rows": 3},
        {"kind": "images", "title": "t", "rows": [["a"]]},
        {"kind": "images", "title": "t", "rows": [["a", "not a tensor"]]},
        {"kind": "sweep", "title": "t", "over": "x", "points": [[1, {"metric": {"value": "much"}}]]},
        {"kind": "sweep", "title": "t", "over": "x", "points": [[1, {"metric": {"price": 1}}]]},
        {"kind": "cost", "title": "t", "counts": [1, 2]},
        "scores",
        None,
    ],
)
def test_descriptions_that_are_none_are_request_errors(described):
    with pytest.raises(RequestError):
        unpack(described, {"b": torch.ones(1, dtype=torch.bool)})


def test_only_payloads_are_packed():
    with pytest.raises(RequestError, match="expected a payload"):
        pack([{"kind": "scores"}])


def test_captions_of_outcomes():
    assert outcomes([3, 5], [3, 8]) == (("3", "5→8"), (False, True))
