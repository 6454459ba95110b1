"""Does the model remember what it was asked? Copies that were asked nothing before are asked first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from robustsuite.core.deployed import Deployed
from robustsuite.core.isolation import seeded
from robustsuite.core.pristine import unasked
from robustsuite.core.streams import Streams
from robustsuite.scenarios.evasion.sanity.boundary import Crossing
from robustsuite.scenarios.evasion.sanity.clean_points import changed
from robustsuite.scenarios.evasion.sanity.probe import Look

_STEPS: Final = 5  # of the climb to points that are asked
_AT_LEAST: Final = 2  # samples that are answered otherwise
_DRAWS: Final = 11  # times that a random model is asked
_ERRORS: Final = 6  # standard errors, by which means of draws may differ
_SWAYED: Final = 0.25  # share of samples for which they may differ by more

Fresh = Callable[[], Deployed]


def copies_of(pristine: Deployed | None, watch: Callable[[Deployed], None] | None = None) -> Fresh | None:
    """Makes models that were asked nothing before, and shows each to `watch`; None where none can be made."""
    spare = None if pristine is None else unasked(pristine)
    if pristine is None or spare is None:
        return None

    def fresh() -> Deployed:
        made = unasked(pristine) or spare
        made.network.eval()
        if watch is not None:
            watch(made)
        return made

    return fresh


def remembered(look: Look, fresh: Fresh, crossing: Crossing | None, streams: Streams) -> str | None:
    """How the deployed model differs from one that was asked nothing before; None where it does not.

    Args:
        look: Samples of which the deployed model was asked already.
        fresh: Makes models that were asked nothing.
        crossing: Neighbours that such models, each asked once, answer differently.
        streams: Key draws.
    """
    start = look.ball.sample(look.x, look.ids, streams)
    new = fresh()
    climbed = look.climb(new.surrogate(), _STEPS, start=start)
    for name, x in (("clean", look.x), ("random", start), ("attacked", climbed)):
        count = _differ(look, fresh, x)
        if count:
            return f"a copy that was asked nothing before answers {count} of {len(look)} {name} inputs otherwise"
    if crossing is None or look.random:
        return None
    one = replace(crossing.look, model=fresh())
    near = (one.gap(crossing.inside) <= 0) & (one.gap(crossing.beyond) <= 0)
    if int(near.sum()) >= _AT_LEAST:
        return f"after one input, {int(near.sum())} of {len(near)} others close to it get its answer"
    return None


def _differ(look: Look, fresh: Fresh, x: Tensor) -> int:
    """How many of these inputs a fresh copy answers otherwise than the deployed model does; 0 where too few."""
    new = replace(look, model=fresh())
    if not look.random:
        count = int(changed(new.margin(x), look.margin(x)).sum())
        return count if count >= _AT_LEAST else 0
    with seeded(0):
        first = new.margin(x)
    with seeded(0):
        again = look.margin(x)
    if int(changed(first, again).sum()) < _AT_LEAST:
        return 0
    first_draws = torch.stack([replace(look, model=fresh()).margin(x) for _ in range(_DRAWS)])
    count = int(_means_differ(first_draws, torch.stack([look.margin(x) for _ in range(_DRAWS)])).sum())
    return count if count > _SWAYED * len(look) else 0


def _means_differ(one: Tensor, other: Tensor) -> Tensor:
    """Whether the means of draws `(draws, n)` differ by more than draws can make them.

    Copies of a model with a generator of its own all draw the same, so the greater variance counts for both.
    """
    error = (2 * torch.maximum(one.var(0), other.var(0)) / _DRAWS).sqrt()
    return (one.mean(0) - other.mean(0)).abs() > _ERRORS * error + 1e-6 * one.abs().amax(0)
