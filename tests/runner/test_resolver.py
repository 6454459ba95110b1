"""What a suite names is made once in a process: each recipe, and each cell's attack and game."""

import pickle
from collections import Counter

import pytest

from robustsuite.runner import resolver as made
from robustsuite.runner.plan import plan
from robustsuite.runner.resolver import Resolver
from robustsuite.runner.run import run
from robustsuite.suite.load import load_suite

SMALL = [
    "dataset={name: digits, train: 200, test: 20}",
    "model={name: logistic}",
    "training={epochs: 1, validation: 0.2}",
    "threat.curve_samples=0",
    "defenses=[none, input-validation]",
    "attacks=[noise, {badnets: {fraction: 0.1, size: 2}}]",
]


@pytest.fixture
def counted(monkeypatch):
    """How often each recipe and each game was made."""
    counts = Counter()

    def counting(name, what):
        honest = getattr(made, name)

        def wrapped(*given):
            counts[name, what(*given)] += 1
            return honest(*given)

        monkeypatch.setattr(made, name, wrapped)

    counting("make_recipe", lambda suite, defense: defense.label)
    counting("arrange", lambda entry, options, threat: entry.name)
    return counts


def test_a_run_makes_each_recipe_and_each_cells_game_once(counted, tmp_path):
    suite = load_suite("quickstart", SMALL)
    counted.clear()
    outcome = run(suite, tmp_path, cached=False)
    assert [record.status for record in outcome.records] == ["ok"] * 6
    assert counted == {
        **{("make_recipe", label): 1 for label in ("none", "input-validation")},
        **{("arrange", name): 2 for name in ("none", "noise", "badnets")},
    }


def test_it_goes_to_other_processes_as_the_suite_alone():
    suite = load_suite("quickstart", SMALL)
    layout = plan(suite, "cpu")
    layout.resolver.recipe(suite.defenses[0]).__dict__["handle"] = lambda: None  # what no pickle holds
    sent = pickle.loads(pickle.dumps(layout.resolver))
    assert isinstance(sent, Resolver)
    assert sent.suite == layout.suite
    assert sent.recipe(suite.defenses[0]) == layout.resolver.recipe(suite.defenses[0])
    cell = layout.cells[-1]
    assert sent.game(cell) == layout.resolver.game(cell)
