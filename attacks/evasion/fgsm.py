"""The fast gradient method: one step along the steepest ascent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustsuite.access import WhiteBox
from robustsuite.core import Streams, checks, losses
from robustsuite.plugins import register


@register.attack("fgsm", scenario="evasion", access="white-box", taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022"))
@dataclass(frozen=True, kw_only=True)
class FGSM:
    """Take one step of the ball's radius along the steepest ascent of the loss.

    It costs one forward and one backward pass a sample. A sample that reaches the goal before the step stays where it
    is. A random start and `step_size=1.25` make it the step of fast adversarial training.

    Args:
        step_size: Length of the step as a fraction of the ball's radius, in (0, 2].
        random_start: Whether to start at a uniform point of the ball rather than at the input.
        l1_share: In l1, the share of coordinates over which the step is spread, in [0, 1].
        loss: What to ascend: `cross-entropy`, `margin` or `dlr` (the margin, where there are fewer than 4 classes).

    References:
        Goodfellow et al., ICLR 2015, arXiv:1412.6572; random start: Wong et al., ICLR 2020, arXiv:2001.03994.
    """

    one_step: ClassVar[bool] = True  # its number is a lower bound by design, which no doubt makes stronger

    step_size: float = 1.0
    random_start: bool = False
    l1_share: float = 0.05
    loss: str = "cross-entropy"

    def __post_init__(self) -> None:
        checks.real("step_size", self.step_size, low=0.0, high=2.0, open_low=True)
        checks.real("l1_share", self.l1_share, low=0.0, high=1.0)
        checks.one_of("loss", self.loss, losses.NAMED)

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)` for the samples of this view."""
        if view.ball.radius == 0:
            return view.x.clone()
        ball, rows = view.ball, torch.arange(len(view.x), device=view.x.device)
        loss = losses.NAMED[losses.resolve(self.loss, view.classes)]
        x = ball.sample(view.x, view.ids, streams.child("start", 0)) if self.random_start else view.x
        seen = view.value_and_grad(x, rows, loss, unbroken_only=True)
        moved = ball.project(ball.step(x, seen.gradient, self.step_size * ball.radius, share=self.l1_share), view.x)
        moved[seen.broken] = x[seen.broken]
        return moved
