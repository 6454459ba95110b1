"""What cannot run on these data although each key may say it: found before anything is trained, all of it at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from robustsuite.core import checks
from robustsuite.core.errors import RequestError
from robustsuite.core.radii import refuse_vacuous
from robustsuite.core.samples import Samples, Splits
from robustsuite.evaluation.resolve import Game
from robustsuite.models.fitting import knowable, refuse_misfit
from robustsuite.scenarios.refusing import check, check_defense
from robustsuite.suite.plugin_options import DefenseUse
from robustsuite.suite.problems import Problem, locate
from robustsuite.suite.yaml_lines import Path
from robustsuite.training.descent import batch_sizes
from robustsuite.training.recipe import GradientDescent, Recipe
from robustsuite.training.settings import Training

if TYPE_CHECKING:
    from robustsuite.suite.schema import Suite


def infeasible(
    suite: Suite, splits: Splits, recipes: Sequence[tuple[DefenseUse, Recipe]], games: Sequence[Game]
) -> list[Problem]:
    """Everything that would end in a cell's error, as far as suite and data tell.

    Args:
        suite: The suite.
        splits: Its data.
        recipes: Each defence with the recipe that it makes.
        games: Each attack with its game, in the suite's order.
    """
    problems = [*_vacuous(suite, splits)]
    for index, game in enumerate(games):
        problems += [problem.below("attacks", index) for problem in _of_attack(suite, index, game, splits, recipes)]
    for index, (use, recipe) in enumerate(recipes):
        problems += _of_defense(index, use, recipe, splits.train)
    return list(dict.fromkeys(problems))


def _vacuous(suite: Suite, splits: Splits) -> Iterator[Problem]:
    ball = suite.threat.ball()
    try:
        if ball is not None:
            refuse_vacuous(ball, splits.test.bounds, splits.test.shape, name="threat.radius")
    except RequestError as error:
        yield Problem(("threat", "radius"), str(error))


def _of_attack(
    suite: Suite, index: int, game: Game, splits: Splits, recipes: Sequence[tuple[DefenseUse, Recipe]]
) -> Iterator[Problem]:
    """What the attack and its game refuse, and networks of the judge that cannot be trained."""
    use, scenario = suite.attacks[index], game.scenario
    try:
        check(game.attack, scenario, splits.test, train=splits.train)
        if scenario.data_view(splits.train) is None:
            for _, recipe in recipes:
                for wanted, samples in scenario.trainings(splits.train, recipe, None):
                    _fits(wanted, samples)
    except RequestError as error:
        yield Problem((use.name, *locate(error.name, {**use.options, **use.rules})), str(error), type(error))


def _of_defense(index: int, use: DefenseUse, recipe: Recipe, train: Samples) -> Iterator[Problem]:
    """What the defences refuse of the training that they make together, and what no training could do."""
    for part in use.parts:
        try:
            check_defense(part.make(), recipe, train)
        except RequestError as error:
            yield Problem(_place(index, use, error.name), str(error), type(error))
    for look in (_enough, _fits):
        try:
            look(recipe, train)
        except RequestError as error:
            path = ("model",) if look is _fits and not use.model else _place(index, use, error.name)
            yield Problem(path, str(error), type(error))
            return


def _place(index: int, use: DefenseUse, name: str | None) -> Path:
    """Where what a defence is refused for stands: its own option, the suite's setting for training, or the defence."""
    own = use.locate(name)
    if own:
        return ("defenses", index, *own)
    shared = locate(name, {field.name: None for field in dataclasses.fields(Training)})
    return ("training", *shared) if shared else ("defenses", index)


def _enough(recipe: Recipe, train: Samples) -> None:
    """Something is held out for what calibrates on it."""
    if recipe.serve and round(recipe.held_out * len(train)) == 0:
        raise checks.fail(
            f"a held-out sample for what is calibrated, of {len(train)}",
            "validation",
            recipe.training.validation,
            "raise it, or dataset.train",
        )


def _fits(recipe: Recipe, train: Samples) -> None:
    """The network takes these data, and the batches that they are cut into."""
    if knowable(recipe.build):
        refuse_misfit(recipe.build, train.classes, train.shape, train.bounds, smallest=_smallest(recipe, len(train)))


def _smallest(recipe: Recipe, n: int) -> int:
    """Size of the smallest batch; 0 where nothing is trained, or by another update, which minds its batches itself."""
    if not isinstance(recipe.update, GradientDescent) or (
        getattr(recipe.build, "checkpoint", None) is not None and recipe.training.init != "checkpoint"
    ):
        return 0
    return min(batch_sizes(n - round(recipe.held_out * n), recipe.training.batch_size))
