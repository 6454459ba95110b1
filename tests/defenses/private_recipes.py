"""Recipes for tests of private training."""

from robustsuite.testing.victims import TinyBuild
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training


def recipe(rules, **changes):
    settings = Training(optimizer="sgd", lr=1.0, batch_size=32, epochs=2).override(changes)
    return rules(Recipe(build=TinyBuild(), training=settings))
