"""Fast adaptive boundary: project onto the linearised boundary, with a pull towards the clean input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from robustsuite.access import ValueAndGrad, WhiteBox
from robustsuite.attacks.evasion import minimum_norm as mn
from robustsuite.core import Streams, checks
from robustsuite.core.isolation import differentiable
from robustsuite.core.rows import per_sample
from robustsuite.plugins import register
from robustsuite.scenarios.protocol import Terms

_FARTHEST: Final = 1.5  # overshoot at most
_ROUNDS: Final = ((1.0, 0.1), (1 / 3, 0.2), (0.0, 0.7))  # share of the classes (at least one), share of the steps


@register.attack("fab", scenario="evasion", access="white-box", taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022"))
@dataclass(frozen=True, kw_only=True)
class FAB:
    """Step onto the linearised boundary of a class, mixed with the clean input's own nearest point on it.

    Projections are exact within the bounds, and each step costs one forward and one backward pass: a success is
    followed by a point nearer to the clean input, for which the slope at the success is kept. Each of the `targets`
    most likely wrong classes is gone for (the targeted version, FAB-T): all of them for a tenth of the steps, the best
    third for a fifth, the best one for the rest. In the end the line from the clean input to the nearest success is
    searched. A targeted goal has one class to go for.

    Args:
        steps: Steps towards the class that is gone for to the end, at least 1.
        targets: Wrong classes that are gone for, at least 1; by default all where there are fewer.
        restarts: Runs towards the best class, at least 1; all but the first start at a random point, half as far from
            the clean input as the nearest success.
        pull: Greatest weight of the clean input's own projection, in [0, 1].
        back: Share of the way that is kept after a success, in [0, 1].
        overshoot: Length of a step over the way to the plane, at least 1.
        search: Forward passes of the search along the line, at least 0.

    Guarantees:
        Start points are keyed by sample id and run, so they are bit-equal in any batch.

    References:
        Croce and Hein, ICML 2020, arXiv:1907.02044; targeted: Croce and Hein, ICML 2020, arXiv:2003.01690.

    Example:
        >>> FAB(targets=3).norms
        ('linf', 'l2', 'l1')
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    minimum_norm: ClassVar[bool] = True

    steps: int = 100
    targets: int = 9
    restarts: int = 1
    pull: float = 0.1
    back: float = 0.9
    overshoot: float = 1.05
    search: int = 3

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.integer("targets", self.targets, low=1)
        checks.integer("restarts", self.restarts, low=1)
        checks.real("pull", self.pull, low=0.0, high=1.0)
        checks.real("back", self.back, low=0.0, high=1.0)
        checks.real("overshoot", self.overshoot, low=1.0)
        checks.integer("search", self.search, low=0)

    def check(self, terms: Terms) -> None:
        """Refuse more targets than there are wrong classes, where more than by default are asked for."""
        checks.targets("targets", self.targets, terms.classes, usual=type(self).targets)

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)` for the samples of this view.

        Raises:
            RequestError: The view's norm is none of `norms`.
        """
        view = mn.playable(self, view)
        with differentiable():  # what is made in a caller's inference mode could not be saved for a backward pass
            return self._searched(view, streams)

    def _searched(self, view: WhiteBox, streams: Streams) -> Tensor:
        nearest = mn.Nearest(view)
        if view.ball.radius == 0:
            return nearest.handed_in()
        rows = torch.arange(len(view.y), device=view.x.device)
        first = view.value(view.x, rows, mn.margin)
        nearest.offer(view.x, rows, first)
        lanes = _Lanes(view, self.targets)
        for share, part in _ROUNDS:
            chosen = lanes.best(max(1, math.ceil(share * lanes.count)))
            for lane in chosen.unbind(1):
                self._run(view, nearest, lanes, lane, math.ceil(part * self.steps), aimed=share > 0)
        for run in range(1, self.restarts):
            lanes.restart(nearest, lanes.best(1)[:, 0], streams.child("start", run))
            self._run(view, nearest, lanes, lanes.best(1)[:, 0], self.steps, aimed=False)
        nearest.tighten(first.value, self.search)
        return nearest.handed_in()

    def _run(
        self, view: WhiteBox, nearest: mn.Nearest, lanes: _Lanes, lane: Tensor, steps: int, *, aimed: bool
    ) -> None:
        """Some steps of every open sample in one of its lanes `(N,)`, towards its class or whichever is ahead."""
        rows = torch.arange(len(lane), device=lane.device)
        for _ in range(steps):
            rows = rows[nearest.open(rows)]
            if len(rows) == 0:
                return
            x, aim = lanes.x[rows, lane[rows]], lanes.classes[rows, lane[rows]]
            if aimed and view.target is None:
                seen = view.value_and_grad(x, rows, mn.towards, target=aim)
            else:
                seen = view.value_and_grad(x, rows, mn.margin)
            # Where another class than this one has won, how surely is not known, but it is hardly by rounding.
            nearest.take(x, rows, seen.broken, seen.value.abs())
            lanes.note(x, rows, lane[rows], seen.broken)
            beyond = (1 + (self.overshoot - 1) * (1 + lanes.misses[rows, lane[rows]])).clamp_max(_FARTHEST)
            lanes.x[rows, lane[rows]] = self._moved(view, x, view.x[rows], seen, beyond)

    def _moved(self, view: WhiteBox, x: Tensor, clean: Tensor, seen: ValueAndGrad, beyond: Tensor) -> Tensor:
        """The next points: steps onto the plane from here and from the clean inputs, mixed by their lengths."""
        ball, slope = view.ball, seen.gradient
        here = torch.where(per_sample(seen.broken, x), torch.lerp(clean, x, self.back), x)
        gap = seen.value + ((here - x) * slope).flatten(1).sum(1)
        clean_gap = gap + ((clean - here) * slope).flatten(1).sum(1)
        step, clean_step = mn.onto(here, slope, -gap, ball), mn.onto(clean, slope, -clean_gap, ball)
        near, far = (ball.distance(d, torch.zeros_like(d)) for d in (step, clean_step))
        weight = (near / (near + far).clamp_min(torch.finfo(near.dtype).tiny)).clamp_max(self.pull).to(x.dtype)
        factor = per_sample(beyond.to(x.dtype), x)
        moved = torch.lerp(here + factor * step, clean + factor * clean_step, per_sample(weight, x))
        return mn.clip(moved, ball)


class _Lanes:
    """Where the search towards each of several classes stands.

    Args:
        view: Whose samples are attacked.
        targets: Most classes that are gone for.
    """

    def __init__(self, view: WhiteBox, targets: int) -> None:
        self._view = view
        if view.target is not None:
            self.classes = view.target[:, None]
        else:
            others = view.logits(view.x).scatter(1, view.y[:, None], -torch.inf)
            self.classes = others.topk(max(1, min(targets, view.classes - 1)), dim=1).indices
        self.count = self.classes.shape[1]
        self.x = view.x[:, None].expand(-1, self.count, *view.x.shape[1:]).clone()
        self.misses = torch.zeros_like(self.classes)
        order = torch.arange(self.count, device=view.x.device, dtype=torch.float64)
        self._distance = (1e30 * (1 + order)).expand(len(view.y), -1).clone()  # the likeliest first, without a success

    def best(self, count: int) -> Tensor:
        """The lanes with the nearest successes `(N, count)`, nearest first."""
        return self._distance.topk(count, dim=1, largest=False).indices

    def note(self, x: Tensor, rows: Tensor, lanes: Tensor, broken: Tensor) -> None:
        """Keep the least distance of a success in these lanes, and count the failures since the last one."""
        distance = self._view.ball.distance(x, self._view.x[rows]).masked_fill(~broken, torch.inf)
        self._distance[rows, lanes] = torch.minimum(self._distance[rows, lanes], distance)
        self.misses[rows, lanes] = torch.where(broken, 0, self.misses[rows, lanes] + 1)

    def restart(self, nearest: mn.Nearest, lanes: Tensor, streams: Streams) -> None:
        """Put each sample's lane at a random point, half as far from the clean input as the nearest success."""
        view, rows = self._view, torch.arange(len(lanes), device=lanes.device)
        shape, dtype = view.x.shape[1:], view.x.dtype
        if view.ball.norm == "linf":
            noise = 2 * streams.uniform(view.ids, shape, dtype=dtype) - 1
        else:
            noise = streams.normal(view.ids, shape, dtype=dtype)
        now = view.ball.distance(self.x[rows, lanes], view.x)
        length = torch.where(nearest.found(rows), nearest.distance, now) / 2
        scale = length / view.ball.distance(noise, torch.zeros_like(noise)).clamp_min(1e-30)
        self.x[rows, lanes] = mn.clip(view.x + per_sample(scale.to(dtype), noise) * noise, view.ball)
