"""The plan of a suite: which trainings and which cells, in which order, each with a key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import robustsuite
from robustsuite.benchmark.suite import Suite
from robustsuite.benchmark.uses import DefenseUse, PluginUse
from robustsuite.canonical import digest, plain
from robustsuite.data.catalogue import load
from robustsuite.data.samples import Splits
from robustsuite.models.build import ModelSpec
from robustsuite.scenarios import arrange
from robustsuite.threat import Threat
from robustsuite.training.recipe import Recipe

CLEAN: Final = PluginUse("attack", "none", label="none")
_CURVE: Final = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)  # multiples of the radius at which success is measured besides


@dataclass(frozen=True)
class Cell:
    """One defence against one attack in one repeat, at one radius.

    Args:
        key: Digest of everything that determines the result.
        order: Position in the plan, from 0.
        defense: The defended recipe's use in the suite.
        attack: The attack's use in the suite.
        repeat: Index of the independent training.
        threat: The threat model of this cell.
        training: Digest of the training that the cell needs first; empty where nothing is trained.
        curve: Whether this cell is a point of a curve, played on fewer samples.
    """

    key: str
    order: int
    defense: DefenseUse
    attack: PluginUse
    repeat: int
    threat: Threat | None
    training: str
    curve: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do, known before it starts.

    Args:
        suite: The resolved suite.
        device: Where it runs.
        cells: In table order.
    """

    suite: Suite
    device: str
    cells: tuple[Cell, ...]

    @cached_property
    def trainings(self) -> tuple[Cell, ...]:
        """One cell for each different training of a victim; poisoning trains once more for each of its own."""
        first: dict[tuple[str, int], Cell] = {}
        for cell in self.cells:
            if cell.training:
                first.setdefault((cell.training, cell.repeat), cell)
        return tuple(first.values())

    def describe(self) -> str:
        """A few lines for people."""
        suite = self.suite
        poisoned = {
            (c.training, c.attack.label, c.repeat) for c in self.cells if c.attack.entry.scenario == "poisoning"
        }
        attacks = list(dict.fromkeys(c.attack.label for c in self.cells if c.attack.label != "none"))
        return (
            f"suite {suite.name}: {suite.dataset.name}, {suite.model.label}, seed {suite.seed}, "
            f"{suite.repeats} repeat{'s' * (suite.repeats > 1)}\n"
            f"  {len({c.defense.label for c in self.cells})} defences x {len(attacks)} attacks "
            f"({', '.join(attacks)}): {len(self.cells)} cells\n"
            f"  {len(self.trainings)} trainings of victims, {len(poisoned)} on poisoned data, on {self.device}, "
            f"{suite.threads} thread{'s' * (suite.threads > 1)} a worker"
        )


def make_recipe(suite: Suite, defense: DefenseUse) -> Recipe:
    """The suite's recipe, changed by every part of the defence from left to right."""
    threat = make_threat(suite)
    recipe = Recipe(
        build=ModelSpec.parse(suite.model_for(defense).written()),
        training=suite.training_for(defense),
        threat=None if threat is None else threat.ball,
    )
    for part in defense.parts:
        recipe = part.make()(recipe)
    return recipe


def make_threat(suite: Suite, radius: float | None = None) -> Threat | None:
    """The suite's threat model, at another radius for a point of a curve; None where it declares no ball."""
    ball = suite.threat.ball()
    if ball is None:
        return None
    told = suite.threat
    scaled = ball if radius is None else ball.scaled(radius)
    return Threat(ball=scaled, goal=told.goal, target=told.target, query_budget=told.query_budget)


def plan(suite: Suite, device: str, splits: Splits | None = None) -> Plan:
    """Lay out every cell of a suite; building each recipe and each game refuses what cannot run.

    Args:
        suite: A validated suite.
        device: Where it will run.
        splits: The data, where they are already loaded.

    Raises:
        RequestError: Data that are not there, defences that do not compose, options that cannot be.
    """
    splits = splits if splits is not None else load(suite.dataset, seed=suite.seed)
    data = digest([splits.train.digest(), splits.test.digest()])
    cells: list[Cell] = []
    for repeat in range(suite.repeats):
        for defense in suite.defenses:
            recipe = make_recipe(suite, defense)
            for attack, threat, curve in _games(suite):
                cells.append(
                    _cell(suite, device, data, recipe, Cell("", 0, defense, attack, repeat, threat, "", curve))
                )
    position = {d.label: i for i, d in enumerate(suite.defenses)}
    ordered = sorted(cells, key=lambda c: (position[c.defense.label], c.curve))
    return Plan(suite, device, tuple(replace(cell, order=i) for i, cell in enumerate(ordered)))


def _games(suite: Suite) -> Iterator[tuple[PluginUse, Threat | None, bool]]:
    """Attack, threat model, and whether it is a point of a curve."""
    ball = suite.threat.ball()
    for attack in (CLEAN, *suite.attacks):
        yield attack, make_threat(suite), False
    if ball is None or suite.threat.curve_samples == 0:
        return
    for radius in suite.threat.curve or tuple(share * ball.radius for share in _CURVE):
        for attack in suite.attacks:
            if attack.entry.scenario == "evasion" and attack.entry.access == "white-box":
                yield attack, make_threat(suite, radius), True


def _cell(suite: Suite, device: str, data: str, recipe: Recipe, cell: Cell) -> Cell:
    entry = cell.attack.entry
    attack, scenario = arrange(entry, {**cell.attack.options, **cell.attack.rules}, cell.threat)
    seed = suite.seed + cell.repeat
    training = recipe.training_key() if is_trained(recipe) else ""
    parts = {
        "data": data,
        "labels": [cell.defense.label, cell.attack.label],
        "recipe": recipe.description(),
        "training": training,
        "weights": recipe.build.weights_digest() if isinstance(recipe.build, ModelSpec) else "",
        "attack": plain(attack),
        "scenario": {"is": scenario.name, **plain(scenario)},
        "seed": seed,
        "threads": suite.threads,
        "device": device.partition(":")[0],
        "samples": suite.threat.curve_samples if cell.curve else 0,
        "version": robustsuite.__version__,
    }
    return replace(cell, key=digest(parts), training=training)


def is_trained(recipe: Recipe) -> bool:
    """Whether this recipe trains: always, but for a checkpoint that is used as it is."""
    has_checkpoint = getattr(recipe.build, "checkpoint", None) is not None
    return not has_checkpoint or recipe.training.init == "checkpoint"
