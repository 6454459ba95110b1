"""What `benchmarks/training.py` trains by: its plans are settings, and measuring changes no training."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_recipe
from robustsuite.training.fit import fit

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("recipes")


def test_every_plan_has_its_settings(recipes):
    for plan in recipes.PLANS.values():
        full, plain = plan.recipe().training, plan.recipe(plain=True, epochs=2).training
        assert full.validation == plain.validation == 0.0
        assert list(full.augment) == plan.more.get("augment", [])
        assert (plain.augment, plain.nesterov, plain.ema, plain.epochs) == ((), False, None, 2)


def test_measuring_between_epochs_changes_no_training_and_takes_no_time(recipes):
    """The clock is planted: it goes on by a second at each look, and by 100 in each measuring."""
    samples, test, rows, now = tiny_samples(96), tiny_samples(40, first=10_000), [], [0.0]
    plain = tiny_recipe()
    plain = replace(plain, training=plain.training.override({"epochs": 3}))

    class Slow(type(test)):
        def batches(self, size, device="cpu"):
            now[0] += 100
            return super().batches(size, device)

    def clock():
        now[0] += 1
        return now[0]

    slow = Slow(test.x, test.y, test.classes, test.bounds, test.ids)
    watched = recipes.Watched(test=slow, tell=rows.append, clock=clock)
    one, other = fit(plain, samples, 0).network, fit(replace(plain, objective=watched), samples, 0).network
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[-1]["seconds"] < 20
    assert watched.outside > 200
    assert recipes.accuracy(other, test) > rows[0]["accuracy"] >= 0
