"""The plan of a suite: which trainings and which cells, in which order, each with a key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import robustsuite
from robustsuite import registry
from robustsuite.benchmark.suite import DefenseUse, PluginUse, Suite
from robustsuite.canonical import digest, plain
from robustsuite.data.catalogue import load
from robustsuite.data.samples import Splits
from robustsuite.models.build import ModelSpec
from robustsuite.scenarios import arrange
from robustsuite.threat import Ball, Threat
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

CLEAN = PluginUse(name="none", options={}, label="none")


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
        poisoned = {(c.training, c.attack.label, c.repeat) for c in self.cells if _scenario(c.attack) == "poisoning"}
        attacks = list(dict.fromkeys(c.attack.label for c in self.cells if c.attack.label != "none"))
        return (
            f"suite {suite.name}: {suite.dataset.name}, {_model_name(suite.model)}, seed {suite.seed}, "
            f"{suite.repeats} repeat{'s' * (suite.repeats > 1)}\n"
            f"  {len({c.defense.label for c in self.cells})} defences x {len(attacks)} attacks "
            f"({', '.join(attacks)}): {len(self.cells)} cells\n"
            f"  {len(self.trainings)} trainings of victims, {len(poisoned)} on poisoned data, on {self.device}, "
            f"{suite.threads} thread{'s' * (suite.threads > 1)} a worker"
        )


def _scenario(use: PluginUse) -> str:
    return registry.attacks.get(use.name).scenario


def _model_name(model: Any) -> str:
    return str(getattr(model, "factory", None) or model.name)


def make_recipe(suite: Suite, defense: DefenseUse) -> Recipe:
    """The suite's recipe, changed by every part of the defence from left to right."""
    recipe = Recipe(
        build=ModelSpec.parse({**suite.model, **(defense.model or {})}),
        training=Training(**{**suite.training, **(defense.training or {})}),
        threat=None if suite.threat is None else make_threat(suite).ball,
    )
    for part in defense.parts:
        recipe = registry.defenses.get(part.name).make(part.options)(recipe)
    return recipe


def make_threat(suite: Suite, radius: float | None = None) -> Threat:
    """The suite's threat model, at another radius for a point of a curve."""
    threat = suite.threat
    ball = Ball(threat.norm, threat.radius if radius is None else radius)
    return Threat(ball=ball, goal=threat.goal, target=threat.target, query_budget=threat.query_budget)


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
                cells.append(_cell(suite, device, data, recipe, Cell("", 0, defense, attack, repeat, threat, "", curve)))
    position = {d.label: i for i, d in enumerate(suite.defenses)}
    ordered = sorted(cells, key=lambda c: (position[c.defense.label], c.curve))
    return Plan(suite, device, tuple(replace(cell, order=i) for i, cell in enumerate(ordered)))


def _games(suite: Suite) -> Iterable[tuple[PluginUse, Threat | None, bool]]:
    threat = None if suite.threat is None else make_threat(suite)
    for attack in (CLEAN, *suite.attacks):
        yield attack, threat, False
    if suite.threat is None:
        return
    for radius in suite.threat.curve:
        for attack in suite.attacks:
            entry = registry.attacks.get(attack.name)
            if entry.scenario == "evasion" and entry.access == "white-box":
                yield attack, make_threat(suite, radius), True


def _cell(suite: Suite, device: str, data: str, recipe: Recipe, cell: Cell) -> Cell:
    entry = registry.attacks.get(cell.attack.name)
    attack, scenario = arrange(entry, cell.attack.options, cell.threat)
    seed = suite.seed + cell.repeat
    training = recipe.training_key() if is_trained(recipe) else ""
    parts = {
        "data": data,
        "recipe": recipe.description(),
        "training": training,
        "weights": recipe.build.weights_digest() if isinstance(recipe.build, ModelSpec) else "",
        "attack": plain(attack),
        "scenario": {"is": scenario.name, **plain(scenario)},
        "seed": seed,
        "threads": suite.threads,
        "device": device.partition(":")[0],
        "samples": suite.threat.curve_samples if cell.curve and suite.threat else 0,
        "version": robustsuite.__version__,
    }
    return replace(cell, key=digest(parts), training=training)


def is_trained(recipe: Recipe) -> bool:
    """Whether this recipe trains: always, but for a checkpoint that is used as it is."""
    has_checkpoint = getattr(recipe.build, "checkpoint", None) is not None
    return not has_checkpoint or recipe.training.init == "checkpoint"
