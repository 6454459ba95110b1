"""Decoupled direction and norm: follow the gradient on a sphere that shrinks after each success."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustsuite.access import WhiteBox
from robustsuite.attacks.evasion import minimum_norm as mn
from robustsuite.core import Streams, checks
from robustsuite.core.rows import per_sample
from robustsuite.plugins import register


@register.attack("ddn", scenario="evasion", access="white-box", taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022"))
@dataclass(frozen=True, kw_only=True)
class DDN:
    """Follow the gradient of the cross-entropy on a sphere that shrinks where the input is adversarial, else grows.

    Lengths are shares of that radius, and the first one is a share of the distance at which the boundary lies by its
    linearisation, so that no scale of inputs or distances matters. The sphere starts small, so that the direction has
    turned before the boundary is crossed: a nearer part of it is found. Steps shorten on a half cosine. In the end the
    line from the clean input to the nearest success is searched.

    Args:
        steps: Gradient steps, at least 1.
        shrink: Share of its radius by which the sphere changes, in (0, 1).
        first_radius: Radius of the first sphere over the distance of the linearised boundary, positive.
        step_size: Length of the first step over the radius of the sphere, positive.
        last_step: The last step over the first, in (0, 1].
        search: Forward passes of the search along the line, at least 0.

    References:
        Rony et al., CVPR 2019, arXiv:1811.09600.

    Example:
        >>> DDN(steps=50).norms
        ('l2',)
    """

    norms: ClassVar[tuple[str, ...]] = ("l2",)
    minimum_norm: ClassVar[bool] = True

    steps: int = 97
    shrink: float = 0.06
    first_radius: float = 0.2
    step_size: float = 1.0
    last_step: float = 0.01
    search: int = 3

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.real("shrink", self.shrink, low=0.0, high=1.0, open_low=True, open_high=True)
        checks.real("first_radius", self.first_radius, low=0.0, open_low=True)
        checks.real("step_size", self.step_size, low=0.0, open_low=True)
        checks.real("last_step", self.last_step, low=0.0, high=1.0, open_low=True)
        checks.integer("search", self.search, low=0)

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:  # noqa: ARG002  # nothing is drawn
        """Adversarial inputs `(N, …)` for the samples of this view.

        Raises:
            RequestError: The view's norm is not l2.
        """
        view = mn.playable(self, view)
        nearest, ball = mn.Nearest(view), view.ball
        if ball.radius == 0:
            return nearest.handed_in()
        rows = torch.arange(len(view.y), device=view.x.device)
        x, clean, radii = view.x, view.x.new_empty(0), view.x.new_empty(0)
        for step in range(self.steps):
            seen = view.value_and_grad(x, rows, mn.by_cross_entropy if step else mn.margin)
            nearest.offer(x, rows, seen)
            if step == 0:
                clean, radii = seen.value, self.first_radius * mn.linearised(view, seen)
            left = nearest.open(rows)
            if not left.all():
                x, rows, radii, seen = x[left], rows[left], radii[left], seen.of(left)
            if len(rows) == 0:
                break
            fade = (1 + math.cos(math.pi * step / self.steps)) / 2
            share = self.step_size * (self.last_step + (1 - self.last_step) * fade)
            radii = torch.where(seen.broken, radii * (1 - self.shrink), radii * (1 + self.shrink))
            centre = view.x[rows]
            length = per_sample(radii * share, x)
            change = mn.unit(x + length * mn.unit(seen.gradient) - centre)
            x = mn.clip(centre + per_sample(radii, x) * change, ball)
        else:
            nearest.offer(x, rows, view.value(x, rows, mn.margin))
        nearest.tighten(clean, self.search)
        return nearest.handed_in()
