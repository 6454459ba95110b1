"""Scalars of NumPy and torch are numbers wherever one is asked for, and give the same results; bools are none."""

import json

import numpy as np
import pytest
import torch

import robustsuite as rs
from robustsuite.attacks.evasion.pgd import PGD
from robustsuite.core import checks
from robustsuite.core.ball import Threat
from robustsuite.core.canonical import canonical_json, digest, plain
from robustsuite.core.errors import RequestError
from robustsuite.data.catalogue import DatasetSpec
from robustsuite.suite.schema import Suite
from robustsuite.training.settings import Training

WHOLE = [np.int64(5), np.uint8(5), np.array(5), torch.tensor(5), torch.tensor(5, dtype=torch.int16)]
REAL = [np.float64(0.25), np.float32(0.25), np.array(0.25), torch.tensor(0.25), torch.tensor(0.25, dtype=torch.float64)]
NEITHER = [True, np.bool_(True), torch.tensor(True), np.array([5]), torch.tensor([5]), "5", None, np.float64("nan")]


def kind(value):
    return f"{type(value).__module__}.{type(value).__name__}-{getattr(value, 'dtype', '')}"


@pytest.mark.parametrize("value", WHOLE, ids=kind)
def test_whole_numbers(value):
    assert type(checks.integer("n", value, low=1)) is int
    assert checks.integer("n", value, low=1) == checks.real("n", value) == checks.fraction("n", value) == 5
    assert plain({"n": [value]}) == {"n": [5]}
    assert json.loads(canonical_json({"n": value})) == {"n": 5}
    assert type(Training(epochs=value).epochs) is int
    assert digest(Training(epochs=value)) == digest(Training(epochs=5))
    assert rs.attack("pgd", steps=value) == rs.attack("pgd", steps=5)
    assert type(rs.attack("pgd", steps=value).steps) is int
    assert DatasetSpec(name="digits", train=value).train == 5
    assert type(Threat(ball=("linf", 0.1), query_budget=value).query_budget) is int


@pytest.mark.parametrize("value", REAL, ids=kind)
def test_real_numbers(value):
    assert type(checks.real("r", value)) is float
    assert rs.Ball("linf", value) == rs.Ball("linf", 0.25)
    assert rs.Ball("linf", 0.1, (-value, value)).bounds == (-0.25, 0.25)
    assert repr(Training(lr=value)) == repr(Training(lr=0.25))
    assert repr(rs.attack("pgd", step_size=value)) == repr(rs.attack("pgd", step_size=0.25))
    assert json.loads(canonical_json(value)) == 0.25


@pytest.mark.parametrize("value", NEITHER, ids=kind)
def test_what_is_no_number_stays_refused(value):
    with pytest.raises(RequestError, match="expected an integer of at least 1, got n="):
        checks.integer("n", value, low=1)
    if value != "5":  # text such as 8/255 is a quotient
        with pytest.raises(RequestError, match="expected a number"):
            rs.Ball("linf", value)


def test_an_evaluation_is_the_same(network, digits):
    _, _, x, y = digits
    ones = {"seed": 3, "classes": 10}
    made = rs.evaluate(network, (x[:40], y[:40]), [PGD(steps=7, step_size=0.25)], ("linf", 0.125), **ones).records
    scalars = {"seed": np.int64(3), "classes": torch.tensor(10)}
    attack = PGD(steps=np.int64(7), step_size=np.float32(0.25))
    again = rs.evaluate(network, (x[:40], y[:40]), [attack], ("linf", np.float32(0.125)), **scalars).records
    for one, other in zip(made, again, strict=True):
        assert (one.key, one.attack, one.seed, one.radius) == (other.key, other.attack, other.seed, other.radius)
        assert one.metrics["clean_accuracy"] == other.metrics["clean_accuracy"]
        assert one.attack_parameters == other.attack_parameters
    assert again[1].metrics["robust_accuracy"] == made[1].metrics["robust_accuracy"]


def test_a_suite_of_scalars_is_the_suite():
    def suite(whole, real):
        return Suite.model_validate(
            {
                "name": "scalars",
                "seed": whole(3),
                "repeats": whole(2),
                "dataset": {"name": "digits", "train": whole(100), "test": whole(20)},
                "model": {"name": "mlp", "hidden": [whole(16)]},
                "training": {"epochs": whole(2), "lr": real(0.25)},
                "threat": {"norm": "linf", "radius": real(0.125), "curve": [real(0.25)]},
                "attacks": [{"pgd": {"steps": whole(5)}}],
                "gates": [{"metric": "clean_accuracy", "at_least": real(0.5)}],
            }
        ).to_yaml()

    assert suite(np.int64, np.float32) == suite(torch.tensor, torch.tensor) == suite(int, float)
