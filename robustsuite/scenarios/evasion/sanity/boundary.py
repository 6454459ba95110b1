"""Where the answer changes: points on both sides of the boundary, and what the scores do there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from robustsuite.core import losses
from robustsuite.core.deployed import Deployed
from robustsuite.core.intervals import median
from robustsuite.core.rows import per_sample
from robustsuite.scenarios.evasion.sanity.probe import Look

_HALVINGS: Final = 14  # of a line; a continuous margin changes by about 2^-14 of its way along it in the last part
_NARROWED: Final = 8  # halvings of the part of a line in which most changes
_PARTS: Final = 12  # of a line, in each of which a gradient is taken
_FEWEST: Final = 4  # lines from which on a share says something
_JUMP: Final = 0.08  # of the clean margin: of honest models below .005, rounded to 16 levels .04, deceptive from .09
# Of the way to another answer, by gradients. To other classes: honest .97 to 1.01, a gate beside it .47; along the
# gradient: honest .76 to 1.36 on each way, past a step by a bridge .65 to 1.15, averaged on a decoy up to 1.7.
EXPLAINED: Final = (0.7, 1.4)
UNEXPLAINED: Final = 0.15  # of the ways along a gradient: none of honest models, a fifth and more of those that deceive
_UPHILL: Final = (1.0, 1.5, 2.0, 3.0)  # radii along the gradient, at which another answer is looked for


@dataclass(frozen=True, eq=False)
class Crossing:
    """Neighbouring points on lines from samples, between which the answer changes.

    Args:
        look: The samples that the lines start from, all untargeted.
        inside: The last points `(n, …)` that are answered like the sample.
        beyond: The next ones, that are not.
    """

    look: Look
    inside: Tensor
    beyond: Tensor

    def jumps(self, model: Deployed | None = None) -> Tensor:
        """By how much the deployed margin jumps between them `(n,)`, over the clean one."""
        look = self.look if model is None else replace(self.look, model=model)
        clean = look.gap(look.x).abs().clamp_min(1e-12)
        return (look.gap(self.beyond) - look.gap(self.inside)) / clean

    def explained(self, module: nn.Module) -> Tensor:
        """How much of the way to the boundary the module's gradients explain `(n,)`: 1 of a continuous margin.

        Their integral along the line, over what the module's margin has to rise to get from the clean input to 0.
        """
        look, way, loss = self.look, self.beyond - self.look.x, _of_classes(self.look.classes)
        risen = torch.zeros(len(look), dtype=torch.float64, device=way.device)
        for part in range(_PARTS):
            slope = look.slope(module, look.x + (part + 0.5) / _PARTS * way, loss).nan_to_num(0.0, 0.0, 0.0)
            risen += (slope.double() * way.double()).flatten(1).sum(1) / _PARTS
        with torch.no_grad():
            clean = loss(module(look.given(look.x)).double(), look.y, None)
        return risen / clean.abs().clamp_min(1e-12)

    def unexplained(self, module: nn.Module, within: tuple[float, float]) -> float:
        """The share of lines of which the module's gradients explain less or more than this."""
        explained = self.explained(module)
        return float((~((explained > within[0]) & (explained < within[1]))).float().mean())


def _of_classes(classes: int) -> losses.AttackLoss:
    """The margin of so many columns; a surrogate may have one more, for rejection."""
    return lambda logits, y, target: losses.margin(logits[:, :classes], y, target)


def crossed(look: Look, asked: Callable[[], Deployed] | None = None) -> Crossing | None:
    """Bisect from each of these samples towards the nearest one of another class, by labels, rejected or not.

    Args:
        look: Some samples that the deployed model gets right.
        asked: Makes the model that answers each round of queries; None for the deployed one.

    Returns:
        What was found; None where too few samples have another class beside them.
    """
    look = replace(look, target=None)
    distance, place = nearest_of_another_class((look.x, look.y), (look.x, look.y), 2.0)
    rows = distance.isfinite().nonzero()[:, 0]
    if len(rows) < _FEWEST:
        return None
    return _bisected(look.take(rows), look.x[place[rows]] - look.x[rows], asked)


def crossed_uphill(look: Look, module: nn.Module) -> Crossing | None:
    """The same along the gradient at the samples, where another answer is within three radii.

    A boundary that is this near may be another one than that towards samples of other classes.
    """
    look = replace(look, target=None)
    slope = look.slope(module, look.x, _of_classes(look.classes)).nan_to_num(0.0, 0.0, 0.0)
    steps = [look.ball.step(look.x, slope, length * look.ball.radius, share=0.05) for length in _UPHILL]
    ends = torch.stack(steps if look.ball.bounds is None else [x.clamp(*look.ball.bounds) for x in steps])
    over = torch.stack([look.gap(end) > 0 for end in ends])
    rows = over.any(0).nonzero()[:, 0]
    if len(rows) < _FEWEST:
        return None
    nearest = ends[over.int().argmax(0)[rows], rows]
    return _bisected(look.take(rows), nearest - look.x[rows], None)


def at_boundaries(look: Look, crossing: Crossing | None) -> str | None:
    """What is wrong where the answer changes, in a few words: towards other classes, or nearer, along the gradient.

    Args:
        look: Some samples that the deployed model gets right.
        crossing: What `crossed` found on them.
    """
    module = look.model.surrogate()
    if crossing is not None:
        jump, explained = median(crossing.jumps()), median(crossing.explained(module))
        if jump > _JUMP:
            return f"where the answer changes, the margin jumps by {jump:.2g} of what it is at clean inputs"
        if not EXPLAINED[0] < explained < EXPLAINED[1]:
            return f"gradients explain {explained:.0%} of how the margin changes on the way to another class"
    uphill = crossed_uphill(look, module)
    share = 0.0 if uphill is None else uphill.unexplained(module, EXPLAINED)
    if share > UNEXPLAINED:
        return f"on {share:.0%} of the ways along the gradient to another answer, gradients do not explain the margin"
    return None


def _bisected(look: Look, way: Tensor, asked: Callable[[], Deployed] | None) -> Crossing:
    """Where the answer changes on ways `(n, …)` from samples to points with another answer."""

    def at(share: Tensor) -> Tensor:
        return look.x + per_sample(share, way) * way

    def broken(share: Tensor) -> Tensor:
        here = look if asked is None else replace(look, model=asked())
        return here.gap(at(share)) > 0

    inside, beyond = bisected(torch.ones(len(look), dtype=way.dtype, device=way.device), broken, _HALVINGS)
    return Crossing(look, at(inside), at(beyond))


Labelled = tuple[Tensor, Tensor]
"""Inputs `(n, …)` with their labels `(n,)`."""


def nearest_of_another_class(some: Labelled, among: Labelled, order: float) -> tuple[Tensor, Tensor]:
    """How far each of these inputs is from the nearest one of another class `(n,)`, and which that is `(n,)`.

    Args:
        some: The inputs.
        among: Those that may be near.
        order: Of the norm.
    """
    apart = torch.cdist(some[0].flatten(1).double(), among[0].flatten(1).double(), p=order)
    distance, place = apart.masked_fill(some[1][:, None] == among[1], torch.inf).min(1)
    return distance, place


def bisected(length: Tensor, beyond: Callable[[Tensor], Tensor], halvings: int) -> tuple[Tensor, Tensor]:
    """On ways of these lengths `(n,)`, the last places before a boundary and the first ones beyond it, `(n,)` each."""
    low, high = torch.zeros_like(length), length
    for _ in range(halvings):
        middle = (low + high) / 2
        over = beyond(middle)
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return low, high


def steepest_change(margin: Callable[[Tensor], Tensor], places: Tensor, shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where margins change most along lines: the part in which they do, halved again and again.

    Args:
        margin: Of the point of each line at these places `(n,)`.
        places: Along the lines, ascending `(m,)`.
        shown: Margins there `(m, n)`.

    Returns:
        The end of what is left of the part, the margin there, and by how much it changes within it, `(n,)` each. The
        change of a continuous margin is about `2^-8` of that in the whole part; a jump's is its height.
    """
    part = shown.diff(dim=0).abs().argmax(0)
    low, high = places[part], places[part + 1]
    before, after = shown.gather(0, part[None])[0], shown.gather(0, part[None] + 1)[0]
    for _ in range(_NARROWED):
        middle = (low + high) / 2
        here = margin(middle)
        first = (here - before).abs() > (after - here).abs()
        low, before = torch.where(first, low, middle), torch.where(first, before, here)
        high, after = torch.where(first, middle, high), torch.where(first, here, after)
    return high, after, after - before
