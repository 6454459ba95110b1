"""Test inputs that were trained on: counted bit for bit, flagged with their number where the training set is known."""

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.deployed import Served
from robustsuite.core.samples import Samples
from robustsuite.core.suspicions import Suspicion
from robustsuite.data.overlap import shared_inputs
from robustsuite.models.build import ModelSpec
from robustsuite.scenarios import Utility
from robustsuite.scenarios.play import play
from robustsuite.scenarios.victim import Victim
from robustsuite.training.recipe import Recipe
from robustsuite.training.trained import Trained

X = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3


def samples(x, y=Y, bounds=(0.0, 1.0)):
    return Samples(x, y[: len(x)], 3, bounds)


@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_each_shared_input_is_counted_once(count):
    test = torch.cat([X[:count], X[40 : 60 - count]])
    assert shared_inputs(samples(test, Y.flip(0)), samples(torch.cat([X[:40], X[:40]]), Y.repeat(2))) == count


def test_one_bit_tells_inputs_apart():
    other = X[:5].clone()
    other[2, 0, 1, 1] = torch.nextafter(other[2, 0, 1, 1], torch.tensor(1.0))
    assert shared_inputs(samples(other), samples(X)) == 4


def test_storage_does_not_tell_them_apart():
    stored = (X * 255).round().to(torch.uint8)
    floats = samples(stored).inputs()
    assert shared_inputs(samples(stored[:9]), samples(floats)) == 9
    assert shared_inputs(samples(floats[:9].double()), samples(stored)) == 9
    assert shared_inputs(samples(stored[:9]), samples(stored)) == 9
    wide = samples(stored, bounds=(0.0, 255.0))  # the same bytes are other inputs
    assert shared_inputs(samples(stored[:9]), wide) == int((stored[:9].flatten(1) == 0).all(1).sum())


def test_another_shape_is_another_input():
    assert shared_inputs(samples(X[:5]), samples(X.flatten(1))) == 0


@pytest.mark.parametrize(("first", "count"), [(40, 0), (38, 2), (0, 20)])
def test_it_is_flagged_with_its_number(first, count):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    test = (X[first : first + 20], Y[first : first + 20])
    clean, attacked = rs.evaluate(net, test, ["noise"], ("linf", 0.1), train=(X[:40], Y[:40])).records
    assert ("test-in-training" in clean.flags) is (count > 0)
    assert (f"{count} of the 20 test inputs are in the training set" in clean.message) is (count > 0)
    assert "test-in-training" not in attacked.flags
    unknown = rs.evaluate(net, test, ["noise"], ("linf", 0.1)).records[0]
    assert "test-in-training" not in unknown.flags
    assert Suspicion("test-in-training").remedy


@pytest.mark.parametrize("trained_here", [True, False])
def test_a_suite_flags_what_it_trained_on_itself(trained_here):
    """What a checkpoint was trained on is not known, and a suite may hand its one part of data out as both."""
    model = Served(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    recipe = Recipe(build=ModelSpec("logistic")) if trained_here else None
    victim = Victim(model, samples(X[:20]), train=samples(X), trained=Trained(model), recipe=recipe)
    found = play(lambda view, streams: None, Utility(), victim, seed=0)
    assert ("test-in-training" in found.flags) is trained_here
    assert found.message.startswith("20 of the 20") is trained_here
