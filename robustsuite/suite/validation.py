"""What each key may say alone but not together: found by composing the recipes, before anything is trained."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.radii import refuse_vacuous
from robustsuite.models.build import ModelSpec
from robustsuite.scenarios import has_norm
from robustsuite.suite.gates import all_mistakes
from robustsuite.suite.plugin_options import DefenseUse
from robustsuite.suite.problems import Problem, Problems, ProblemsError, problems_of
from robustsuite.suite.recipes import is_trained, make_recipe
from robustsuite.suite.schema import NetworkSpec
from robustsuite.suite.yaml_lines import Path
from robustsuite.training.own import OwnTraining
from robustsuite.training.settings import Training

if TYPE_CHECKING:
    from robustsuite.suite.schema import Suite


def inconsistencies(suite: Suite) -> Problems:
    """Every contradiction between parts of a suite that are valid by themselves."""
    found = Problems()
    _of_attacks(suite, found)
    for ball, path in suite.balls():
        _vacuous(suite, ball, path, found)
    _bounds(suite, found)
    sound = _own(suite, found)
    for use in suite.defenses:
        if sound or use.training:  # what is said of the suite's training need not be said of each defence
            with found.below("defenses", use.index):
                _of_defense(suite, use)
    attacks = [(use.label, use.entry.scenario) for use in suite.attacks]
    found.extend(all_mistakes(suite.gates, [use.label for use in suite.defenses], attacks))
    return found


def _of_attacks(suite: Suite, found: Problems) -> None:
    """Attacks without a threat, or that do not have its norm."""
    for use in suite.attacks:
        ball = suite.ball_of(use)
        with found.below("attacks", use.index):
            if ball is not None:
                has_norm(use.entry, ball.norm)
            elif use.entry.game.needs_threat:
                raise RequestError(
                    f"expected a threat for the {use.entry.scenario} attack {use.label!r}, got none; add a line "
                    f"`threat: {{norm: linf, radius: 8/255}}`"
                )


def _vacuous(suite: Suite, ball: Ball | None, path: Path, found: Problems) -> None:
    """A radius that reaches every input, as far as the data set's name tells before it is read."""
    known = suite.dataset.expected_inputs()
    if ball is not None and known is not None:
        with found.below(*path):
            refuse_vacuous(ball, *known)


def _bounds(suite: Suite, found: Problems) -> None:
    """A model that declares other bounds than its data, as far as the data set's name tells."""
    if not suite.model.values:
        return
    known, declared = suite.dataset.expected_inputs(), ModelSpec.parse(suite.model.written()).bounds
    if known is not None and declared is not None and declared != known[0]:
        message = (
            f"expected the bounds of the data, {known[0]}, got bounds={declared}; declare the same of both, and let "
            f"mean and std take inputs to what the network wants"
        )
        found.append(Problem(("model", "bounds"), message))


def _own(suite: Suite, found: Problems) -> bool:
    """Whether the suite's own training function, where it names one, can be called as it says."""
    training, before = suite.training, len(found)
    if isinstance(training, OwnTraining):
        with found.below("training"):
            try:
                training.check(named=bool(suite.model.values))
            except RequestError as error:
                raise ProblemsError(problems_of(error, dataclasses.asdict(training))) from error
    if len(found) == before:
        _unasked(training, suite.model, ("model",), found)
    return len(found) == before


def _unasked(training: Training | OwnTraining, model: NetworkSpec, path: Path, found: Problems) -> None:
    """A network that the user's own training would not use."""
    with found.below(*path):
        if isinstance(training, OwnTraining) and model.values and not training.asks_for_build():
            raise RequestError(
                f"expected no model beside {training.name}, which hides its network, got model={model.written()}; drop "
                f"it, or let that function ask for `build`, which makes this network"
            )


def _of_defense(suite: Suite, use: DefenseUse) -> None:
    """Overrides that do not fit, parts that do not compose, training where a checkpoint forbids it.

    Raises:
        RequestError: The first of these.
    """
    found = Problems()
    for key, read in (("training", suite.training_for), ("model", suite.model_for)):
        with found.below(*use.inside, key):
            read(use)
    found.refuse()
    training = suite.training_for(use)
    _unasked(training, NetworkSpec(use.model), (*use.inside, "model"), found)
    found.refuse()
    try:
        init = "fresh" if isinstance(training, OwnTraining) else training.init
        if init == "checkpoint" and suite.model_for(use).checkpoint is None:
            raise RequestError(
                "expected model.checkpoint beside init='checkpoint', got none; add checkpoint: FILE to the model"
            )
        bare = make_recipe(suite, DefenseUse(training=use.training, model=use.model))
        recipe = make_recipe(suite, use)
    except RequestError as error:
        raise ProblemsError([Problem(use.locate(error.name), str(error), type(error))]) from error
    if suite.dataset.whole and is_trained(recipe):
        message = "expected a model that is not trained beside dataset.whole=True, got one that is"
        remedy = "add checkpoint: FILE to the model, or drop whole: it would be trained on what it is tested on"
        raise RequestError(f"{message}; {remedy}")
    own = getattr(recipe.objective, "ball", None)
    if isinstance(own, Ball) and own != suite.threat.ball():
        _vacuous(suite, own, use.locate("radius"), found)
        found.refuse()
    trains = (recipe.objective, recipe.update, recipe.prepare) != (bare.objective, bare.update, bare.prepare)
    if trains and not is_trained(recipe):
        checkpoint = suite.model_for(use).checkpoint
        raise RequestError(
            f"expected a defence that needs no training beside checkpoint={checkpoint!r}, got defense={use.label!r}; "
            f"drop it, or set training: {{init: checkpoint}} to train on from those weights"
        )
