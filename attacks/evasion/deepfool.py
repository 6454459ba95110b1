"""DeepFool: step onto the nearest of the linearised decision boundaries until one is crossed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustsuite.access import WhiteBox
from robustsuite.attacks.evasion import minimum_norm as mn
from robustsuite.core import Streams, checks
from robustsuite.plugins import register


@register.attack(
    "deepfool", scenario="evasion", access="white-box", taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022")
)
@dataclass(frozen=True, kw_only=True)
class DeepFool:
    """Step onto the nearest linearised boundary, again and again, until the input is on the other side.

    Each step is clipped to the bounds of the inputs. The first one looks at the boundaries to `candidates` classes;
    later ones at the `followed` that are nearest by the slopes seen so far. In the end the line from the clean input to
    the success is searched for where it crosses the boundary.

    Args:
        steps: Steps at most, at least 1.
        overshoot: By which share a step goes beyond the linearised boundary, at least 0.
        candidates: Most likely wrong classes that are considered, at least 1.
        followed: How many of them are considered after the first step, at least 1.
        search: Forward passes of the search along the line, at least 0.

    References:
        Moosavi-Dezfooli et al., CVPR 2016, arXiv:1511.04599.

    Example:
        >>> DeepFool(steps=20).norms
        ('linf', 'l2')
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    minimum_norm: ClassVar[bool] = True

    steps: int = 50
    overshoot: float = 0.005
    candidates: int = 10
    followed: int = 2
    search: int = 3

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.real("overshoot", self.overshoot, low=0.0)
        checks.integer("candidates", self.candidates, low=1)
        checks.integer("followed", self.followed, low=1)
        checks.integer("search", self.search, low=0)

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:  # noqa: ARG002  # nothing is drawn
        """Adversarial inputs `(N, …)` for the samples of this view.

        Raises:
            RequestError: The view's norm is none of `norms`.
        """
        view = mn.playable(self, view)
        nearest = mn.Nearest(view)
        if view.ball.radius == 0:
            return nearest.handed_in()
        boundaries = mn.Boundaries(view, self.candidates, self.followed)
        rows = torch.arange(len(view.y), device=view.x.device)
        x, clean = view.x, view.x.new_empty(0)
        for step in range(self.steps + 1):
            seen = view.jacobian(x, rows, boundaries.gaps, unbroken_only=True)
            gap, slope = boundaries.closest(rows, seen)
            clean = seen.values.amax(1) if step == 0 else clean
            nearest.take(x, rows, seen.broken, seen.values.amax(1))
            left = ~seen.broken
            if not left.any():
                break
            x, rows = x[left], rows[left]
            rise = (1 + self.overshoot) * -gap[left] + 4 * mn.surely(view)
            x = mn.clip(mn.onto_plane(x, slope[left], rise, view.ball), view.ball)
        nearest.tighten(clean, self.search)
        return nearest.handed_in()
