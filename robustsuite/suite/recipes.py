"""The recipes and threat models that a suite describes."""

from __future__ import annotations

from robustsuite.core.ball import Threat
from robustsuite.core.errors import RequestError
from robustsuite.models.build import ModelSpec
from robustsuite.suite.plugin_options import DefenseUse, PluginUse
from robustsuite.suite.schema import NetworkSpec, Suite
from robustsuite.training.own import HiddenNetwork, OwnTraining
from robustsuite.training.parts import Build
from robustsuite.training.recipe import Recipe


def make_recipe(suite: Suite, defense: DefenseUse) -> Recipe:
    """The suite's recipe, changed by every part of the defence from left to right.

    Raises:
        RequestError: Parts that do not compose, or that replace what the user's own training hides.
    """
    threat = make_threat(suite)
    ball = None if threat is None else threat.ball
    training, model = suite.training_for(defense), suite.model_for(defense)
    if isinstance(training, OwnTraining):
        recipe = Recipe(build=_build(training, model), own=training, threat=ball)
    else:
        recipe = Recipe(build=ModelSpec.parse(model.written()), training=training, threat=ball)
    for part in defense.parts:
        recipe = _defended(recipe, part)
    return recipe


def _defended(recipe: Recipe, part: PluginUse) -> Recipe:
    """The recipe changed by one defence, which must leave the user's own training where it is."""
    own = recipe.own
    if own is None:
        made: Recipe = part.make()(recipe)
        return made
    name = None
    try:
        made = part.make()(recipe)
        if made.own == own:
            return made
        told = "its recipe trains without that function"
    except RequestError as error:
        told, name = str(error), error.name
    raise RequestError(f"expected a defence that {own.name} leaves room for, got {part.name}: {told}", name=name)


def _build(own: OwnTraining, model: NetworkSpec) -> Build:
    """What builds the network of the user's own training: the suite's model where the function asks for it."""
    own.check(named=bool(model.values))
    return ModelSpec.parse(model.written()) if model.values and own.asks_for_build() else HiddenNetwork(own.name)


def make_threat(suite: Suite, radius: float | None = None, attack: PluginUse | None = None) -> Threat | None:
    """The suite's threat model, or an attack's, at another radius for a point of a curve; None where there is no ball.

    Where a suite has several balls, its own is the first: what a defence trains in, where it has none of its own.
    """
    ball = suite.threat.ball() if attack is None else suite.ball_of(attack)
    if ball is None:
        return None
    told = suite.threat
    scaled = ball if radius is None else ball.scaled(radius)
    return Threat(ball=scaled, goal=told.goal, target=told.target, query_budget=told.query_budget)


def is_trained(recipe: Recipe) -> bool:
    """Whether this recipe trains: always, but for a checkpoint that is used as it is by what says nothing else."""
    if recipe.own is not None:
        return True
    has_checkpoint = getattr(recipe.build, "checkpoint", None) is not None
    return not has_checkpoint or recipe.training.init == "checkpoint"
