"""Fast minimum-norm: climb the margin within a ball that shrinks after each success and grows after each failure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustsuite.access import ValueAndGrad, WhiteBox
from robustsuite.attacks.evasion import minimum_norm as mn
from robustsuite.core import Streams, checks
from robustsuite.core.rows import per_sample
from robustsuite.plugins import register


@register.attack("fmn", scenario="evasion", access="white-box", taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022"))
@dataclass(frozen=True, kw_only=True)
class FMN:
    """Climb the margin within a ball that shrinks where the input is adversarial and grows where it is not.

    Until a sample was broken once, its ball reaches to where the linearised boundary lies. Steps are a multiple of that
    ball's radius along the gradient, or along its sign in linf; in l1, where a ball is far thinner than it is wide, a
    multiple of the range of one input. The first ones lead out of the ball and back onto its surface elsewhere. The
    multiple and the rate of shrinking fall on a half cosine. In the end the line from the clean input to the nearest
    success is searched.

    Args:
        steps: Gradient steps, at least 1.
        step_size: Length of the first step over the radius of the sample's ball, in l1 its l2 length over the range of
            one input, positive.
        last_step: The last step over the first, in (0, 1].
        shrink: Share of its radius by which a ball changes at first, in (0, 1).
        last_shrink: The same in the last step, in (0, 1).
        search: Forward passes of the search along the line, at least 0.

    References:
        Pintor et al., NeurIPS 2021, arXiv:2102.12827.

    Example:
        >>> FMN(steps=50).norms
        ('linf', 'l2', 'l1')
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    minimum_norm: ClassVar[bool] = True

    steps: int = 97
    step_size: float = 3.0
    last_step: float = 0.01
    shrink: float = 0.05
    last_shrink: float = 0.001
    search: int = 3

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.real("step_size", self.step_size, low=0.0, open_low=True)
        checks.real("last_step", self.last_step, low=0.0, high=1.0, open_low=True)
        checks.real("shrink", self.shrink, low=0.0, high=1.0, open_low=True, open_high=True)
        checks.real("last_shrink", self.last_shrink, low=0.0, high=1.0, open_low=True, open_high=True)
        checks.integer("search", self.search, low=0)

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:  # noqa: ARG002  # nothing is drawn
        """Adversarial inputs `(N, …)` for the samples of this view.

        Raises:
            RequestError: The view's norm is none of `norms`.
        """
        view = mn.playable(self, view)
        nearest, ball = mn.Nearest(view), view.ball
        if ball.radius == 0:
            return nearest.handed_in()
        rows = torch.arange(len(view.y), device=view.x.device)
        x, clean, radii = view.x, view.x.new_empty(0), torch.zeros_like(nearest.distance)
        for step in range(self.steps):
            seen = view.value_and_grad(x, rows, mn.margin)
            clean = seen.value if step == 0 else clean
            nearest.offer(x, rows, seen)
            left = nearest.open(rows)
            if not left.all():
                x, rows, radii, seen = x[left], rows[left], radii[left], seen.of(left)
            if len(rows) == 0:
                break
            fade = (1 + math.cos(math.pi * step / self.steps)) / 2
            radii = self._radii(view, nearest, x, rows, radii, seen, fade)
            x = self._moved(view, x, rows, radii.to(x.dtype), seen.gradient, fade)
        else:
            nearest.offer(x, rows, view.value(x, rows, mn.margin))
        nearest.tighten(clean, self.search)
        return nearest.handed_in()

    def _moved(self, view: WhiteBox, x: Tensor, rows: Tensor, radii: Tensor, slope: Tensor, fade: float) -> Tensor:
        """One step, and back into each sample's ball."""
        share = self.step_size * (self.last_step + (1 - self.last_step) * fade)
        direction = slope.sign() if view.ball.norm == "linf" else mn.unit(slope)
        length = torch.full_like(radii, mn.width(view.ball)) if view.ball.norm == "l1" else radii
        return view.ball.project(x + per_sample(length * share, x) * direction, view.x[rows], radii)

    def _radii(
        self,
        view: WhiteBox,
        nearest: mn.Nearest,
        x: Tensor,
        rows: Tensor,
        radii: Tensor,
        seen: ValueAndGrad,
        fade: float,
    ) -> Tensor:
        """The radius of each sample's ball for the next step."""
        rate = self.last_shrink + (self.shrink - self.last_shrink) * fade
        towards = view.ball.distance(x, view.x[rows]) + mn.linearised(view, seen)
        grown = torch.where(nearest.found(rows), radii * (1 + rate), towards)
        return torch.where(seen.broken, torch.minimum(radii * (1 - rate), nearest.distance[rows]), grown)
