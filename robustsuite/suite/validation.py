"""What each key may say alone but not together: found by composing the recipes, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.radii import refuse_vacuous
from robustsuite.models.build import ModelSpec
from robustsuite.scenarios import SCENARIOS, has_norm
from robustsuite.suite import gates
from robustsuite.suite.plugin_options import NONE, DefenseUse
from robustsuite.suite.problems import Problem, ProblemsError
from robustsuite.suite.recipes import is_trained, make_recipe
from robustsuite.suite.yaml_lines import Path

if TYPE_CHECKING:
    from robustsuite.suite.schema import Suite


def inconsistencies(suite: Suite) -> list[Problem]:
    """Every contradiction between parts of a suite that are valid by themselves."""
    return [
        *_without_threat(suite),
        *_norms(suite),
        *_vacuous(suite, suite.threat.ball(), ("threat", "radius")),
        *_bounds(suite),
        *(problem.below("defenses", i) for i, use in enumerate(suite.defenses) for problem in _of_defense(suite, use)),
        *gates.of_suite(suite),
    ]


def _without_threat(suite: Suite) -> list[Problem]:
    if suite.threat.ball() is not None:
        return []
    return [
        Problem(
            ("attacks", index),
            f"expected a threat for the {use.entry.scenario} attack {use.label!r}, got none; add a line "
            f"`threat: {{norm: linf, radius: 8/255}}`",
        )
        for index, use in enumerate(suite.attacks)
        if SCENARIOS[use.entry.scenario].needs_threat
    ]


def _norms(suite: Suite) -> Iterator[Problem]:
    """Attacks that do not have the norm of the threat."""
    ball = suite.threat.ball()
    for index, use in enumerate(suite.attacks):
        try:
            if ball is not None:
                has_norm(use.entry, ball.norm)
        except RequestError as error:
            yield Problem(("attacks", index), str(error))


def _vacuous(suite: Suite, ball: Ball | None, path: Path) -> list[Problem]:
    """A radius that reaches every input, as far as the data set's name tells before it is read."""
    known = suite.dataset.expected_inputs()
    if ball is None or known is None:
        return []
    try:
        refuse_vacuous(ball, *known)
    except RequestError as error:
        return [Problem(path, str(error))]
    return []


def _bounds(suite: Suite) -> Iterator[Problem]:
    """A model that declares other bounds than its data, as far as the data set's name tells."""
    known, declared = suite.dataset.expected_inputs(), ModelSpec.parse(suite.model.written()).bounds
    if known is not None and declared is not None and declared != known[0]:
        message = (
            f"expected the bounds of the data, {known[0]}, got bounds={declared}; declare the same of both, and let "
            f"mean and std take inputs to what the network wants"
        )
        yield Problem(("model", "bounds"), message)


def _of_defense(suite: Suite, use: DefenseUse) -> list[Problem]:
    """Overrides that do not fit, parts that do not compose, training where a checkpoint forbids it."""
    problems = _of_overrides(suite, use)
    if problems:
        return problems
    try:
        if suite.training_for(use).init == "checkpoint" and suite.model_for(use).checkpoint is None:
            message = "expected model.checkpoint beside init='checkpoint', got none; add checkpoint: FILE to the model"
            return [Problem((), message)]
        bare = make_recipe(suite, DefenseUse(training=use.training, model=use.model))
        recipe = make_recipe(suite, use)
    except RequestError as error:
        return [Problem(use.locate(error.name), str(error))]
    if suite.dataset.whole and is_trained(recipe):
        message = "expected a model that is not trained beside dataset.whole=True, got one that is"
        remedy = "add checkpoint: FILE to the model, or drop whole: it would be trained on what it is tested on"
        return [Problem((), f"{message}; {remedy}")]
    own = getattr(recipe.objective, "ball", None)
    if isinstance(own, Ball) and own != suite.threat.ball():
        problems = _vacuous(suite, own, use.locate("radius"))
        if problems:
            return problems
    trains = (recipe.objective, recipe.update, recipe.prepare) != (bare.objective, bare.update, bare.prepare)
    if not trains or is_trained(recipe):
        return []
    checkpoint = suite.model_for(use).checkpoint
    message = (
        f"expected a defence that needs no training beside checkpoint={checkpoint!r}, got defense={use.label!r}; drop "
        f"it, or set training: {{init: checkpoint}} to train on from those weights"
    )
    return [Problem((), message)]


def _of_overrides(suite: Suite, use: DefenseUse) -> list[Problem]:
    inside = (use.parts[0].name if use.parts else NONE,) if len(use.parts) < 2 else ()
    problems: list[Problem] = []
    try:
        suite.training_for(use)
    except ProblemsError as error:
        problems += [problem.below(*inside, "training") for problem in error.problems]
    try:
        suite.model_for(use)
    except ProblemsError as error:
        problems += [problem.below(*inside, "model") for problem in error.problems]
    return problems
