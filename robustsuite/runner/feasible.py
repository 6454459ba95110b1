"""What cannot run on these data although each key may say it: found before anything is trained, all of it at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from robustsuite.core.errors import RequestError
from robustsuite.core.radii import refuse_vacuous
from robustsuite.core.samples import Samples
from robustsuite.core.splits import Splits
from robustsuite.data.catalogue import DatasetSpec
from robustsuite.evaluation.resolve import Game
from robustsuite.models.fitting import knowable, refuse_misfit
from robustsuite.scenarios.case import Case
from robustsuite.scenarios.refusing import check, check_defense
from robustsuite.suite.plugin_options import DefenseUse
from robustsuite.suite.problems import Problem, locate
from robustsuite.suite.yaml_lines import Path
from robustsuite.training.augment import augmentations
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
        place = ("attacks", suite.attacks[index].index)
        problems += [problem.below(*place) for problem in _of_attack(suite, index, game, splits, recipes)]
    for use, recipe in recipes:
        problems += _of_defense(use.index, use, recipe, splits)
    return list(dict.fromkeys(problems))


def _vacuous(suite: Suite, splits: Splits) -> Iterator[Problem]:
    for ball, path in suite.balls():
        try:
            refuse_vacuous(ball, splits.test.bounds, splits.test.shape, name="threat.radius")
        except RequestError as error:
            yield Problem(path, str(error))


def _of_attack(
    suite: Suite, index: int, game: Game, splits: Splits, recipes: Sequence[tuple[DefenseUse, Recipe]]
) -> Iterator[Problem]:
    """What the attack and its game refuse, and networks of the judge that cannot be trained."""
    use, scenario = suite.attacks[index], game.scenario
    try:
        check(game.attack, scenario, splits.test, train=splits.train)
        for _, recipe in recipes:
            for job in scenario.jobs(Case(splits.train, recipe, splits.part, test=splits.test)):
                _fits(job.recipe, job.samples)
    except RequestError as error:
        yield Problem((use.name, *locate(error.name, {**use.options, **use.rules})), str(error), type(error))


def _of_defense(index: int, use: DefenseUse, recipe: Recipe, splits: Splits) -> Iterator[Problem]:
    """What the defences refuse of the training that they make together, and what no training could do."""
    for part in use.parts:
        try:
            check_defense(part.make(), recipe, splits)
        except RequestError as error:
            yield Problem(_place(index, use, error.name), str(error), type(error))
    try:
        for change in augmentations(recipe.training.augment):
            change.refuse(splits.train.shape)
    except RequestError as error:
        yield Problem(_place(index, use, "augment"), str(error), type(error))
    try:
        _fits(recipe, splits.train)
    except RequestError as error:
        yield Problem(_place(index, use, error.name) if use.model else ("model",), str(error), type(error))


def _place(index: int, use: DefenseUse, name: str | None) -> Path:
    """Where what a defence is refused for stands: its own option, the suite's setting for training, or the defence."""
    own = use.locate(name)
    if own:
        return ("defenses", index, *own)
    for block, kind in (("training", Training), ("dataset", DatasetSpec)):
        shared = locate(name, {field.name: None for field in dataclasses.fields(kind)})
        if shared:
            return (block, *shared)
    return ("defenses", index)


def _fits(recipe: Recipe, train: Samples) -> None:
    """The network takes these data, and the batches that they are cut into."""
    if knowable(recipe.build):
        refuse_misfit(recipe.build, train.classes, train.shape, train.bounds, smallest=_smallest(recipe, len(train)))


def _smallest(recipe: Recipe, n: int) -> int:
    """Size of the smallest batch; 0 where nothing is trained, or by another update, which minds its batches itself."""
    loaded = getattr(recipe.build, "checkpoint", None) is not None and recipe.training.init != "checkpoint"
    if recipe.own is not None or loaded or not isinstance(recipe.update, GradientDescent):
        return 0
    return min(batch_sizes(n - round(recipe.training.validation * n), recipe.training.batch_size))
