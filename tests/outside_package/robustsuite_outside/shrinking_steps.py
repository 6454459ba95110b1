"""Climb a loss by steps that shrink."""

from dataclasses import dataclass

from torch import Tensor

from robustsuite.access import BestSoFar, WhiteBox
from robustsuite.core import Streams, checks, losses
from robustsuite.plugins import register


@register.attack("x-shrinking-steps", scenario="evasion", access="white-box")
@dataclass(frozen=True, kw_only=True)
class ShrinkingSteps:
    """Climb a loss from a random point of the ball, by steps that shrink.

    Args:
        steps: Gradient steps, at least 1.
        loss: What to ascend: `cross-entropy`, `margin` or `dlr`.

    References:
        Madry et al., ICLR 2018, arXiv:1706.06083.
    """

    steps: int = 10
    loss: str = "margin"

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.one_of("loss", self.loss, losses.NAMED)

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, ...)` for the samples of this view."""
        best = BestSoFar(view.x)
        if view.ball.radius == 0:
            return best.x
        loss = losses.NAMED[losses.resolve(self.loss, view.classes)]
        x, rows = view.ball.sample(view.x, view.ids, streams.child("start")), best.left()
        for step in range(self.steps):
            x, rows, gradient = best.go_on(x, rows, view.value_and_grad(x, rows, loss))
            if len(rows) == 0:
                return best.x
            length = view.ball.radius * (1 - step / self.steps)
            x = view.ball.project(view.ball.step(x, gradient, length), view.x[rows])
        best.keep(x, rows, *view.value(x, rows, loss))
        return best.x
