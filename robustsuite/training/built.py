"""What a recipe's network is when it is built, for its key: a user's factory may read files and the environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from torch import nn

from robustsuite.core.canonical import digest
from robustsuite.core.isolation import seeded
from robustsuite.core.streams import Streams
from robustsuite.models.digest import network_parts
from robustsuite.training.recipe import Recipe

_OWN: Final = "robustsuite"


def built_digest(recipe: Recipe, classes: int, shape: tuple[int, ...], bounds: tuple[float, float], seed: int) -> str:
    """24 hexadecimal digits over the network that a recipe builds; empty where its description says all of it.

    It is built twice, and what differs then, because a factory draws beside the seed, is left out.

    Args:
        recipe: Whose network.
        classes: How many there are.
        shape: Of one input.
        bounds: Least and greatest input value.
        seed: Of the training.
    """
    if _described(recipe.build):
        return ""
    try:
        one, other = (_parts(recipe, classes, shape, bounds, seed) for _ in range(2))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a factory may raise anything; the training raises it again, for its record
        return type(error).__name__
    return digest([sorted(one), {name: found for name, found in one.items() if other.get(name) == found}])


def _parts(
    recipe: Recipe, classes: int, shape: tuple[int, ...], bounds: tuple[float, float], seed: int
) -> Mapping[str, str]:
    with seeded(Streams(seed).child("build").key):
        network: nn.Module = recipe.build(classes, shape, bounds)
    trained = {f"trained {name}": "" for name, weight in network.named_parameters() if weight.requires_grad}
    return {**network_parts(network), **trained}


def _described(value: Any) -> bool:
    """Whether these are parts of the suite alone, without a factory, which do as their fields say."""
    if isinstance(value, (list, tuple)):
        return all(_described(item) for item in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return not callable(value)
    own = type(value).__module__.partition(".")[0] == _OWN
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return own and fields.get("factory") is None and _described(list(fields.values()))
