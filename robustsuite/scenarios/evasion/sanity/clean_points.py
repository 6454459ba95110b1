"""Are clean inputs treated apart: from those next to them, in batches, or where gradients are asked for?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from robustsuite.core import losses
from robustsuite.core.intervals import median
from robustsuite.core.isolation import differentiable
from robustsuite.core.streams import Streams
from robustsuite.core.suspicions import Suspicion
from robustsuite.scenarios.evasion.sanity.probe import Look

_NEAR: Final = (1e-4, 1e-3, 1e-2)  # of the way to another point of the ball
_APART: Final = 0.1  # of the clean margin, by which an answer is another one
_SMALL: Final = 0.3  # of the median margin, below which a margin counts as so large, being small next to any change
_SHARE: Final = 0.1  # of the samples, from which on something is wrong
_ALONE: Final = 8  # samples that are asked one by one


def treated_apart(look: Look, streams: Streams) -> Iterator[tuple[Suspicion, str]]:
    """What is different about clean inputs, and how often."""
    clean = look.margin(look.x)
    near = beside(look, clean, streams)
    if near > _SHARE:
        told = f"the answers to {near:.0%} of the clean inputs jump within a hundredth of the radius"
        yield Suspicion.JUMP_AT_CLEAN, told
    few = look.take(slice(0, _ALONE))
    one_by_one = torch.cat([few.take(slice(i, i + 1)).margin(few.x[i : i + 1]) for i in range(len(few))])
    alone = apart(one_by_one, clean[: len(few)])
    if alone > _SHARE:
        yield Suspicion.DEPENDS_ON_BATCH, f"{alone:.0%} of the inputs get another answer alone than in a batch"
    with differentiable():
        leaf = look.given(look.x).detach().clone().requires_grad_(True)
        shown = losses.margin(look.model.surrogate()(leaf).detach().double(), look.y, look.target)
    with torch.no_grad():
        plain = losses.margin(look.model.surrogate()(look.given(look.x)).double(), look.y, look.target)
    asked = apart(shown, plain)
    if asked > _SHARE:
        told = f"{asked:.0%} of the inputs get another answer where gradients are asked for"
        yield Suspicion.DEPENDS_ON_AUTOGRAD, told


def beside(look: Look, clean: Tensor, streams: Streams) -> float:
    """Share of samples whose margin is another one within a hundredth of the way to other points of the ball.

    One of them is a random one; on the way to the other, every coordinate moves away from the nearer bound.
    """
    random = look.ball.sample(look.x, look.ids, streams)
    low, high = look.ball.bounds or (float(look.x.min()), float(look.x.max()))
    away = torch.where(look.x > (low + high) / 2, -1.0, 1.0).to(look.x)
    inner = look.ball.project(look.x + look.ball.radius * away, look.x)
    moved = [look.margin(look.x + share * (end - look.x)) for end in (random, inner) for share in _NEAR]
    return float(torch.stack([changed(margin, clean) for margin in moved]).any(0).float().mean())


def apart(one: Tensor, other: Tensor) -> float:
    """Share of the margins `(n,)` that differ."""
    return float(changed(one, other).float().mean())


def changed(one: Tensor, other: Tensor) -> Tensor:
    """Which margins `(n,)` differ by more than rounding and a smooth loss can make them."""
    size = other.abs().clamp_min(_SMALL * median(other.abs()))
    return (one - other).abs() > _APART * size
