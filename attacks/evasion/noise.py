"""Random noise of the ball's size: the control that every real attack must beat."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from robustsuite.access import Inputs
from robustsuite.core import Streams
from robustsuite.plugins import register


@register.attack("noise", scenario="evasion", access="blind", taxonomy=("ML01:2023", "NISTAML.022"), control=True)
@dataclass(frozen=True, kw_only=True)
class Noise:
    """Move every sample to a random point of its ball, without asking the model anything.

    Args:
        extreme: Whether to go as far out as the ball allows (random signs in linf and l1, a random direction of full
            length in l2) rather than to a uniform point of it.

    Guarantees:
        Draws are keyed by sample id, so they are bit-equal in any batch.
    """

    extreme: bool = False

    def __call__(self, view: Inputs, streams: Streams) -> Tensor:
        """Noisy inputs `(N, …)` for the samples of this view."""
        ball = view.ball
        if ball.radius == 0:
            return view.x.clone()
        if not self.extreme:
            return ball.sample(view.x, view.ids, streams.child("noise"))
        unbounded = replace(ball, bounds=None)
        drawn = unbounded.sample(view.x, view.ids, streams.child("noise")) - view.x
        return ball.project(unbounded.step(view.x, drawn, ball.radius, share=1.0), view.x)
