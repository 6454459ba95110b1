"""The recipes and threat models that a suite describes."""

from __future__ import annotations

from robustsuite.core.ball import Threat
from robustsuite.models.build import ModelSpec
from robustsuite.suite.plugin_options import DefenseUse, PluginUse
from robustsuite.suite.schema import Suite
from robustsuite.training.recipe import Recipe


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
    """Whether this recipe trains: always, but for a checkpoint that is used as it is."""
    has_checkpoint = getattr(recipe.build, "checkpoint", None) is not None
    return not has_checkpoint or recipe.training.init == "checkpoint"
