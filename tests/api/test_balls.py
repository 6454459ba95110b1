"""A tuple is a ball wherever a ball is, and its numbers may come from anywhere."""

import inspect

import numpy as np
import pytest
import torch

import robustsuite as rs
from robustsuite.core.ball import as_ball
from robustsuite.models.build import ModelSpec
from robustsuite.pytest_plugin.robustness import Robustness
from robustsuite.scenarios import STANDARD, Evasion

BALL = rs.Ball("linf", 8 / 255)
TUPLES = [
    ("linf", 8 / 255),
    ("linf", "8/255"),
    ["linf", 8 / 255],
    ("linf", np.float64(8 / 255)),
    ("linf", torch.tensor(8 / 255, dtype=torch.float64)),
    ("linf", np.array(8 / 255)),
    (np.str_("linf"), 8 / 255),
]


@pytest.mark.parametrize("given", TUPLES, ids=repr)
def test_one_ball(given):
    assert as_ball(given) == BALL
    assert type(as_ball(given).radius) is float
    assert rs.Threat(ball=given).ball == BALL
    assert Evasion(ball=given).ball == BALL
    assert rs.Recipe(build=ModelSpec("mlp"), threat=given).threat == BALL


def test_single_precision_is_taken_as_it_is():
    assert rs.Ball("l2", np.float32(0.1)).radius == float(np.float32(0.1))
    assert rs.Ball("l2", 1, bounds=(np.int64(0), torch.tensor(255))).bounds == (0.0, 255.0)
    assert as_ball(("l2", 1, (0, 255))) == rs.Ball("l2", 1.0, (0.0, 255.0))


@pytest.mark.parametrize(
    "given", [0.1, ("linf",), ("linf", 0.1, (0, 1), 3), (0.1, "linf"), "linf", ("linf", np.array([0.1]))], ids=repr
)
def test_what_is_no_ball_is_refused_with_the_line_that_is_one(given):
    with pytest.raises(rs.RequestError, match=r"got .*;"):
        as_ball(given)


@pytest.mark.parametrize("radius", [np.bool_(True), np.float64("nan"), torch.tensor(-1.0), "8/0"], ids=repr)
def test_impossible_radii(radius):
    with pytest.raises(rs.RequestError, match="radius="):
        as_ball(("linf", radius))


def test_everywhere_a_ball_is_asked_for(network, digits):
    _, _, x, y = digits
    x, y, ball = x[:30], y[:30], ("linf", "1/10")
    want = rs.Ball("linf", 0.1)
    assert torch.equal(rs.perturb("fgsm", network, x, y, ball), rs.perturb("fgsm", network, x, y, want))
    told, same = (rs.evaluate(network, (x, y), "fgsm", threat).records[1] for threat in (ball, want))
    assert told.key == same.key
    assert told.metrics == same.metrics
    Robustness("here").assert_robust(network, (x, y), attack="noise", ball=ball, at_least=0.1)


def test_the_command_and_python_play_the_same_where_nobody_asks(network, digits):
    _, _, x, y = digits
    assert inspect.signature(rs.evaluate).parameters["attacks"].default is None
    report = rs.evaluate(network, (x[:20], y[:20]), threat=("linf", 0.02))
    assert [record.attack for record in report.records] == ["none", STANDARD.default_attack] == ["none", "cascade"]
    assert [record.status for record in report.records] == ["ok", "ok"]
