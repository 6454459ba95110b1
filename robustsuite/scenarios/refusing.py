"""Attacks, games and defences are asked beforehand whether they could play, so that no cell finds out."""

from __future__ import annotations

from typing import Any

import torch

from robustsuite.core.errors import RequestError, RobustsuiteError
from robustsuite.core.samples import Samples
from robustsuite.core.splits import Splits
from robustsuite.scenarios.protocol import Attack, Defense, Scenario, Terms
from robustsuite.training.recipe import Recipe


def check(
    attack: Attack[Any, Any],
    scenario: Scenario[Any, Any],
    samples: Samples,
    *,
    targeted: bool = False,
    train: Samples | None = None,
) -> None:
    """Let the game, and an attack that has a `check`, refuse what could not be played.

    Args:
        attack: Who would attack.
        scenario: The game.
        samples: Data of the kind that it would be played on.
        targeted: Whether there is a label to reach, where the scenario does not say so.
        train: The victim's training data, where they are known.

    Raises:
        RequestError: What is refused, and the way out.
    """
    aimed = targeted or getattr(scenario, "goal", "untargeted") == "targeted"
    counts = () if train is None else tuple(torch.bincount(train.y, minlength=train.classes).tolist())
    norm = str(getattr(getattr(scenario, "ball", None), "norm", ""))
    terms = Terms(scenario.name, samples.classes, samples.shape, samples.bounds, aimed, sum(counts), counts, norm)
    _ask(scenario, "scenario", terms)
    _ask(attack, "attack", terms)


def check_defense(defense: Defense, recipe: Recipe, splits: Splits) -> None:
    """Let a defence that has a `check` refuse a training that it could not defend.

    Args:
        defense: One part of a composition.
        recipe: What all parts together make.
        splits: The data set, before anything is held out for validation.

    Raises:
        RequestError: What is refused, and the way out.
    """
    train = splits.train
    left = len(train) - round(recipe.training.validation * len(train))
    counts = tuple(torch.bincount(train.y, minlength=train.classes).tolist())
    sizes = {name: 0 if (of := splits.part(name)) is None else len(of) for name in needed(recipe)}
    terms = Terms("", train.classes, train.shape, train.bounds, False, left, counts, parts=sizes)
    _ask(defense, "defense", recipe, terms)


def needed(recipe: Recipe) -> tuple[str, ...]:
    """Parts of the data set that a recipe needs beside the training samples."""
    return tuple(dict.fromkeys((*recipe.trains_with, *recipe.serves_with)))


def _ask(plugin: Any, kind: str, *known: Any) -> None:
    own = getattr(plugin, "check", None)
    if not callable(own):
        return
    try:
        own(*known)
    except RobustsuiteError:
        raise
    except Exception as error:  # a stranger's plug-in may raise anything
        name = getattr(plugin, "plugin_name", type(plugin).__name__)
        raise RequestError(
            f"expected a check that passes or raises a RequestError, got {kind}={name!r}, whose check raised "
            f"{type(error).__name__}: {error}; mend the plug-in"
        ) from error
