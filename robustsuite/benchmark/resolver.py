"""What a suite names, made: recipes, and the attack and game of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustsuite.benchmark.games import Game
from robustsuite.benchmark.uses import DefenseUse
from robustsuite.models.build import ModelSpec
from robustsuite.scenarios import arrange
from robustsuite.threat import Threat
from robustsuite.training.recipe import Recipe

if TYPE_CHECKING:
    from robustsuite.benchmark.plan import Cell
    from robustsuite.benchmark.suite import Suite

_Place = tuple[str, str, int, float | None, bool]


class Resolver:
    """Makes what a suite names, each recipe and each cell's game once.

    It goes to other processes as the suite alone: what plug-ins make need not be picklable, so each process makes its
    own.

    Args:
        suite: A validated suite.
    """

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self._recipes: dict[str, Recipe] = {}
        self._games: dict[_Place, Game] = {}

    def __reduce__(self) -> tuple[type[Resolver], tuple[Suite]]:
        return Resolver, (self.suite,)

    def recipe(self, defense: DefenseUse) -> Recipe:
        """The suite's recipe, changed by every part of the defence from left to right."""
        if defense.label not in self._recipes:
            self._recipes[defense.label] = make_recipe(self.suite, defense)
        return self._recipes[defense.label]

    def game(self, cell: Cell) -> Game:
        """The attack and the game that it plays; a point of a curve is drawn as the attack alone finds it.

        Raises:
            RequestError: As `robustsuite.scenarios.arrange`.
        """
        radius = None if cell.threat is None else cell.threat.ball.radius
        place = (cell.defense.label, cell.attack.label, cell.repeat, radius, cell.curve)
        if place not in self._games:
            use, alone = cell.attack, {"escalate": False} if cell.curve else {}
            entry = use.entry
            self._games[place] = Game(entry, *arrange(entry, {**use.options, **use.rules, **alone}, cell.threat))
        return self._games[place]


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


def is_trained(recipe: Recipe) -> bool:
    """Whether this recipe trains: always, but for a checkpoint that is used as it is."""
    has_checkpoint = getattr(recipe.build, "checkpoint", None) is not None
    return not has_checkpoint or recipe.training.init == "checkpoint"
