"""Cells of one name that were played by different rules are told apart, by name and value, in every game."""

import pytest
import torch
from two_runs import Side, outcomes, rate
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.results.changes import Change, Gap
from robustsuite.results.compare import compare
from robustsuite.scenarios import SCENARIOS

N = 200


@pytest.fixture
def old(tmp_path):
    return Side(tmp_path / "old")


@pytest.fixture
def new(tmp_path):
    return Side(tmp_path / "new")


def played(side, scenario, holds, rules, **fields):
    """A cell of this game under its first headline, whose outcomes stand where `holds` says."""
    name, spec = next((n, s) for n, s in SCENARIOS[scenario].metrics.items() if s.headline)
    columns = {"id": torch.arange(N), spec.outcome: holds}
    if spec.counted:
        columns[spec.counted] = torch.ones(N, dtype=torch.bool)
    return side.add("mine", scenario, name, rate(holds, spec.better), columns, rules=rules, **fields)


CASES = [
    ("poisoning", {"fraction": 0.01}, {"fraction": 0.2}, "fraction 0.01, now 0.2"),
    ("inversion", {}, {"classes": 5}, "classes unset, now 5"),
    ("inversion", {"evaluator": "mlp"}, {}, "evaluator mlp, now unset"),
    ("evasion", {"goal": "untargeted", "draws": 1}, {"goal": "untargeted", "draws": 10}, "draws 1, now 10"),
    ("evasion", {"draws": 1}, {"draws": 1, "query_budget": 50}, "query_budget unset, now 50"),
]


@pytest.mark.parametrize(("scenario", "before", "after", "told"), CASES)
def test_they_are_not_compared(old, new, scenario, before, after, told):
    better = next(s.better for s in SCENARIOS[scenario].metrics.values() if s.headline)
    few, many = outcomes(10, N), outcomes(150, N)
    played(old, scenario, many if better == "higher" else few, before)
    played(new, scenario, few if better == "higher" else many, after)  # which would be a regression
    found = compare(old.folder, new.folder)
    row = found.rows[0]
    assert (row.verdict, row.gap) == (Change.NOT_COMPARABLE, Gap.INCOMPARABLE)
    assert row.message == f"other rules ({told})"
    assert found.outcome == "inconclusive"
    done = CliRunner().invoke(app, ["compare", str(old.folder), str(new.folder)])
    assert done.exit_code == 3
    assert told in " ".join(done.stdout.split())


@pytest.mark.parametrize("scenario", ["poisoning", "inversion", "evasion"])
def test_the_same_rules_are_compared(old, new, scenario):
    for side, hits in ((old, 100), (new, 100)):
        played(side, scenario, outcomes(hits, N), {"fraction": 0.1})
    assert compare(old.folder, new.folder).outcome == "passed"


def test_another_radius_is_another_game(old, new):
    played(old, "evasion", outcomes(150, N), {"draws": 1}, norm="linf", radius=0.1)
    played(new, "evasion", outcomes(10, N), {"draws": 1}, norm="linf", radius=0.2)
    found = compare(old.folder, new.folder)
    assert found.outcome == "inconclusive"
    assert found.rows[0].message == "other threat: linf 0.1, now linf 0.2"


def test_older_records_do_not_tell_them_in_any_game(old, new):
    """Then nothing can be said but that."""
    played(old, "poisoning", outcomes(10, N), {}, version=1)
    played(new, "poisoning", outcomes(150, N), {"fraction": 0.2})
    found = compare(old.folder, new.folder)
    assert found.outcome == "failed"
    assert found.notes == ("records of the old run do not tell the rules of their games, so those are not compared",)
