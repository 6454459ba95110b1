"""Are clean inputs treated apart: from those next to them, in batches, or where gradients are asked for?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from robustsuite.core import losses
from robustsuite.core.intervals import median
from robustsuite.core.isolation import differentiable
from robustsuite.core.rows import per_sample
from robustsuite.core.streams import Streams
from robustsuite.core.suspicions import Suspicion
from robustsuite.core.traits import Traits
from robustsuite.scenarios.evasion.sanity.boundary import steepest_change
from robustsuite.scenarios.evasion.sanity.probe import Look

_NEAR: Final = (1e-4, 1e-3, 1e-2)  # of the way to another point of the ball
_APART: Final = 0.1  # of the clean margin, by which an answer is another one
_SMALL: Final = 0.3  # of the median margin, below which a margin counts as so large, being small next to any change
SHARE: Final = 0.1  # of the samples, from which on something is wrong
_ALONE: Final = 8  # samples that are asked one by one
_PARTS: Final = 16  # equal steps of a line inwards


def treated_apart(look: Look, streams: Streams) -> Iterator[tuple[Suspicion, str]]:
    """What is different about clean inputs, and how often."""
    clean = look.margin(look.x)
    near = beside(look, clean, streams)
    if near > SHARE:
        told = f"the answers to {near:.0%} of the clean inputs jump within a hundredth of the radius"
        yield Suspicion.JUMP_AT_CLEAN, told
    for traits in set_apart(look, clean, streams):
        yield (
            Suspicion.JUMP_AT_CLEAN,
            f"clean inputs get another answer than those beside them that keep {traits.name}",
        )
    few = look.take(slice(0, _ALONE))
    one_by_one = torch.cat([few.take(slice(i, i + 1)).margin(few.x[i : i + 1]) for i in range(len(few))])
    alone = apart(one_by_one, clean[: len(few)])
    if alone > SHARE:
        yield Suspicion.DEPENDS_ON_BATCH, f"{alone:.0%} of the inputs get another answer alone than in a batch"
    with differentiable():
        leaf = look.given(look.x).detach().clone().requires_grad_(True)
        shown = losses.margin(look.model.surrogate()(leaf).detach().double(), look.y, look.target)
    with torch.no_grad():
        plain = losses.margin(look.model.surrogate()(look.given(look.x)).double(), look.y, look.target)
    asked = apart(shown, plain)
    if asked > SHARE:
        told = f"{asked:.0%} of the inputs get another answer where gradients are asked for"
        yield Suspicion.DEPENDS_ON_AUTOGRAD, told


def beside(look: Look, clean: Tensor, streams: Streams) -> float:
    """Share of samples whose margin is another one within a hundredth of the way to other points of the ball.

    One of them is a random one; on the way to the other, every coordinate moves away from the nearer bound.
    """
    random = look.ball.sample(look.x, look.ids, streams)
    moved = [look.margin(look.x + share * (end - look.x)) for end in (random, _inner(look)) for share in _NEAR]
    return float(torch.stack([changed(margin, clean) for margin in moved]).any(0).float().mean())


def set_apart(look: Look, clean: Tensor, streams: Streams) -> Iterator[Traits]:
    """What clean inputs do not have, and inputs beside them that do are answered otherwise, as they are not close by.

    Values of 8 bits, which is how an image reaches a model from outside; and to be off the bounds, at which clean
    images and most adversarial ones have some values.

    Args:
        look: Some samples.
        clean: Their margins `(n,)`.
        streams: Key draws.
    """
    if look.ball.bounds is None:
        return
    low, high = look.ball.bounds
    levels = low + (high - low) * (torch.arange(256).to(look.x) / 255)
    eight = Traits(levels=levels, values="8-bit values")
    rounded = replace(look, grid=eight).given(look.x)
    halfway = look.x + (rounded - look.x) / 2
    answer = look.margin(rounded)
    other = changed(answer, clean) & changed(answer, look.margin(halfway))
    if float(other.float().mean()) > SHARE:
        yield eight
    few = look.take(slice(0, _ALONE))
    depth = _jumps_inwards(few, clean[: len(few)], streams) if look.ball.norm == "linf" else 0.0
    if depth > 0:
        yield Traits(inner=(low + depth, high - depth))


def _jumps_inwards(look: Look, clean: Tensor, streams: Streams) -> float:
    """How far from the bounds values are where margins have jumped, as all of them move inwards; 0 where none jump.

    What jumps as well at random points as far away, some of whose values stay at a bound, jumps for another reason.
    """
    inner, random = _inner(look), look.ball.sample(look.x, look.ids, streams)

    def margin(share: Tensor, end: Tensor = inner) -> Tensor:
        return look.margin(look.x + per_sample(share, end) * (end - look.x))

    places = torch.linspace(0, 1, _PARTS + 1).to(look.x)
    line = torch.stack([margin(place.expand(len(look))) for place in places])
    high, after, change = steepest_change(margin, places, line)
    jumped = changed(clean + change, clean) & changed(margin(high, random), after)
    return float(high[jumped].max()) * look.ball.radius if float(jumped.float().mean()) > SHARE else 0.0


def _inner(look: Look) -> Tensor:
    """Points of the ball `(n, …)` to which every coordinate has moved away from the nearer bound."""
    low, high = look.ball.bounds or (float(look.x.min()), float(look.x.max()))
    away = torch.where(look.x > (low + high) / 2, -1.0, 1.0).to(look.x)
    return look.ball.project(look.x + look.ball.radius * away, look.x)


def apart(one: Tensor, other: Tensor) -> float:
    """Share of the margins `(n,)` that differ."""
    return float(changed(one, other).float().mean())


def changed(one: Tensor, other: Tensor) -> Tensor:
    """Which margins `(n,)` differ by more than rounding and a smooth loss can make them."""
    size = other.abs().clamp_min(_SMALL * median(other.abs()))
    return (one - other).abs() > _APART * size
