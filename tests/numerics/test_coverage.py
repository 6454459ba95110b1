"""Intervals hold the truth as often as they say, and tests cry wolf no more often: by exact sums and by simulation."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from robustsuite.core.intervals import clopper_pearson, interval, wilson

ROOT = Path(__file__).parent.parent.parent
spec = importlib.util.spec_from_file_location("coverage_benchmark", ROOT / "benchmarks" / "coverage.py")
measure = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = measure  # dataclasses look their module up
spec.loader.exec_module(measure)

MIDDLE = np.linspace(0.05, 0.95, 361)


def test_wilson_covers_in_the_middle():
    """95 % on average; at single rates it falls to 92.6 % for n = 100 and stays in 93 to 97 % from n = 150 on."""
    for n in (100, 200, 500, 1000):
        coverage = measure.one_sample(wilson, n, MIDDLE)
        assert 0.945 <= coverage.mean() <= 0.955
        assert ((coverage >= 0.93) & (coverage <= 0.97)).mean() > 0.98
    for n in (150, 200, 500, 1000):
        assert measure.lowest(wilson, n, MIDDLE)[0] >= 0.93
        assert measure.one_sample(wilson, n, MIDDLE).max() <= 0.97
    assert 0.926 <= measure.lowest(wilson, 100, MIDDLE)[0] < 0.93


def test_wilson_fails_at_the_extremes_and_clopper_pearson_does_not():
    extremes = np.array([0.001, 0.005, 0.01, 0.02, 0.98, 0.99, 0.995, 0.999])
    sizes = (50, 100, 200, 500, 1000, 2000)
    assert min(measure.one_sample(wilson, n, extremes).min() for n in sizes) < 0.91
    assert min(measure.one_sample(clopper_pearson, n, extremes).min() for n in sizes) >= 0.945


@pytest.mark.parametrize("n", [1, 5, 20, 50, 99])
def test_the_interval_covers_everywhere_on_few_samples(n):
    rates = np.linspace(0.001, 0.999, 400)
    assert min(measure.one_sample(interval, n, rates).min(), measure.lowest(interval, n, rates)[0]) >= 0.95 - 1e-6


@pytest.mark.parametrize("n", [100, 135, 142, 200, 300, 1000])
def test_the_interval_covers_everywhere_on_many(n):
    rates = np.linspace(0.0005, 0.9995, 1000)
    coverage = measure.one_sample(interval, n, rates)
    assert 0.948 <= coverage.mean() <= 0.965
    assert measure.lowest(interval, n, rates)[0] >= 0.93
    extreme = (rates <= 0.02) | (rates >= 0.98)
    assert coverage[extreme].min() >= 0.945


def test_the_paired_interval_covers():
    found = measure.differences_covered((50, 100), (0.0, 0.001, 0.01, 0.1, 0.3), (0.0, 0.001, 0.01, 0.1, 0.3))
    assert found.least >= 0.93
    assert found.mean >= 0.95


@pytest.mark.parametrize("side", ["both", "worse"])
def test_mcnemar_keeps_its_level(side):
    found = measure.mcnemar_levels((10, 50, 200, 500), (0.01, 0.05, 0.2, 1.0), side)
    assert found.most <= 0.05
    assert found.most >= 0.035  # and is no idle test


@pytest.mark.parametrize(("tests", "true", "shared"), [(20, 20, 0.0), (20, 20, 0.8), (20, 10, 0.0)])
def test_holm_keeps_the_level_of_the_family(tests, true, shared):
    """At 5 % of 500 draws the standard error is one point."""
    assert measure.family_error(tests, true, shared, draws=500) <= 0.05 + 0.02


WORLDS = [
    measure.World(0.5, 100, 2, 0.0),
    measure.World(0.95, 400, 3, 0.05),
    measure.World(0.5, 400, 3, 0.2),
    measure.World(0.95, 100, 5, 0.2),
    measure.World(0.98, 100, 3, 0.0, own=0.1),
]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name())
def test_means_over_repeats_cover(world):
    assert measure.repeats_covered(world, draws=400) >= 0.95 - 0.022


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name())
def test_a_change_over_repeats_is_seldom_a_false_alarm(world):
    found = measure.alarms(world, draws=300)
    assert found.regressed <= 0.05 + 0.025
    assert found.held >= 0.95 - 0.025
    if world.training == 0:
        assert found.clustered <= 0.05 + 0.025


def test_pooled_flips_would_cry_wolf_where_clustered_ones_do_not():
    """What one release gets right it gets right in every training."""
    found = measure.alarms(measure.World(0.5, 200, 5, 0.0, release=0.7, own=0.3), draws=400)
    assert found.clustered <= 0.075
    assert found.pooled >= 0.2


def test_the_published_table_is_what_is_measured():
    """The exact rows do not depend on draws; one of them is computed again."""
    text = (ROOT / "benchmarks" / "COVERAGE.md").read_text()
    found = measure.rates_covered(wilson, (100, 150, 200, 300, 500, 1000, 2000), measure.GRID[49:950])
    assert f"| Wilson | p 0.05-0.95, n 100-2000 | {found.cells()} |" in text
