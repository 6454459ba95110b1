"""Plug-ins that write into what they see: no figure of another cell, and none of a later run, changes."""

from pathlib import Path

import pytest
from fault_runs import records, table
from typer.testing import CliRunner

from robustsuite.cli.app import app
from robustsuite.core.metric import Metric
from robustsuite.testing import LawBroken, attack_laws, defense_laws

PLUGINS = Path(__file__).with_name("hostile_plugins.py")
SUITE = """
name: hostile
dataset: {name: digits, train: 200, test: 60}
model: {name: logistic}
training: {epochs: 2, lr: 5.0e-3, batch_size: 32, validation: 0.0}
threat: {norm: linf, radius: 0.1, curve_samples: 0}
defenses: [%s]
attacks: [%s]
"""
HONEST = (
    "noise",
    "{pgd: {steps: 4, follow_up: false}}",
    "{badnets: {fraction: 0.1, size: 2}}",
    "{model-inversion: {steps: 5}}",
)
POISONS = ("write", "over-budget", "trigger", "fewer", "double", "nan", "bright", "nothing")
HOSTILE = (
    *(f"{{hostile-poison: {{does: {does}, fraction: 0.1, label: poison-{does}}}}}" for does in POISONS),
    *(
        f"{{hostile-evasion: {{does: {does}, follow_up: false, label: evasion-{does}}}}}"
        for does in ("write", "weights")
    ),
    "hostile-inversion",
)
LABELS = (*(f"poison-{does}" for does in POISONS), "evasion-write", "evasion-weights", "hostile-inversion")
DEFENSES = ("hostile-defense", "{hostile-defense: {does: serve, label: serves}}")


def run(folder, defenses, attacks):
    """By command, in the cache of this test."""
    suite = folder.parent / f"{folder.name}.yaml"
    suite.write_text(SUITE % (", ".join(defenses), ", ".join(attacks)))
    # One worker, which holds one copy of the data for all cells.
    command = ["run", str(suite), "--out", str(folder), "--plugin", str(PLUGINS), "--quiet", "--workers", "1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code in (0, 1), result.output
    return {(r.defense, r.attack): r for r in records(folder)}


def figures(folder):
    """Rows of the honest cells, without their place in the plan."""
    honest = [row for row in table(folder) if row[2] == "none" and row[3] not in LABELS]
    return {row[2:4]: (row[0], *row[2:]) for row in honest}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A clean run in a cache of its own; a hostile run, and after it a clean one in the cache that it left."""
    home = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTSUITE_CACHE", str(home / "alone"))
        run(home / "clean", ("none",), HONEST)
        patch.setenv("ROBUSTSUITE_CACHE", str(home / "shared"))
        # Hostile cells stand before honest ones, so that what they leave behind would show in the same run.
        found = run(home / "defended", (*DEFENSES, "none"), ("noise",))
        found |= run(home / "mixed", ("none",), (*HOSTILE, *HONEST))
        for entry in (home / "shared" / "cells").glob("*"):
            entry.unlink()  # the later run has to play, on the weights and the poison that this one left
        run(home / "later", ("none",), HONEST)
    return home, found


def test_no_figure_of_another_cell_or_of_a_later_run_changes(played):
    home, _ = played
    clean = figures(home / "clean")
    assert [row[5] for row in clean.values()] == ["ok"] * 5
    assert figures(home / "mixed") == clean
    assert figures(home / "later") == clean
    defended = figures(home / "defended")
    assert len(defended) == 2
    assert defended == {place: clean[place] for place in defended}


def test_a_poisoner_that_writes_into_its_view_poisons_the_one_row_that_it_returns(played):
    _, found = played
    record = found["none", "poison-write"]
    assert record.status == "ok"
    assert record.metrics["poisoned"] == Metric(1.0, 200, unit="count")
    assert abs(record.metrics["accuracy_drop"].value) < 0.2
    assert "the budget is 20 rows, and the attack changed 1" in record.message


def test_budgets_and_balls_are_the_judges_own(played):
    _, found = played
    assert "at most 20 of 200 training samples changed, got 200" in found["none", "poison-over-budget"].message
    record = found["none", "evasion-write"]
    assert "over-budget" in record.flags
    assert record.metrics["robust_accuracy"].value == record.metrics["clean_accuracy"].value


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("fewer", "expected a trigger that leaves shape"),
        ("double", "torch.float64"),
        ("nan", "expected finite numbers, got trigger(x)"),
        ("bright", "expected trigger(x) within bounds=(0, 1)"),
        ("nothing", "got trigger(x)=NoneType"),
    ],
)
def test_triggers_are_judged_only_where_they_give_inputs(played, does, said):
    record = played[1]["none", f"poison-{does}"]
    assert record.status == "error"
    assert said in record.message


def test_a_trigger_that_stamps_its_input_in_place_is_judged_like_any_other(played):
    record = played[1]["none", "poison-trigger"]
    assert record.status == "ok"
    assert record.metrics["backdoor_success_rate"].n < 60


def test_written_weights_are_an_error_that_names_the_attack(played):
    record = played[1]["none", "evasion-weights"]
    assert record.status == "error"
    assert "got attack='hostile-evasion', under which its weights were written to" in record.message


def test_members_and_labels_of_an_inversion_are_copies(played):
    record = played[1]["none", "hostile-inversion"]
    assert record.status == "ok"
    assert record.metrics["inversion_accuracy"].value <= 0.2  # one grey image for all ten classes


def test_a_defence_that_writes_into_its_data_costs_nobody_else(played):
    _, found = played
    assert found["hostile-defense", "none"].status == "ok"
    record = found["serves", "none"]
    assert record.status == "error"
    assert "expected a model that leaves its input as it is" in record.message


def broken(laws, name):
    (law,) = (law for law in laws if law.name == name)
    with pytest.raises(LawBroken) as raised:
        law()
    return str(raised.value)


def test_the_kit_finds_what_writes_into_its_view(played):
    assert "['x', 'y', 'ids', 'ball']" in broken(attack_laws("hostile-evasion"), "leaves-its-view")
    assert "['samples', 'budget']" in broken(attack_laws("hostile-poison"), "leaves-its-view")
    assert "['labels', 'ids', 'members']" in broken(attack_laws("hostile-inversion"), "leaves-its-view")
    assert "the trigger copies" in broken(attack_laws("hostile-poison", does="trigger"), "leaves-the-set")


def test_the_kit_finds_what_writes_into_its_data(played):
    assert "Spoils leaves the training data" in broken(defense_laws("hostile-defense"), "leaves-its-data")
    assert "leaves its input" in broken(defense_laws("hostile-defense", does="serve"), "leaves-its-data")
