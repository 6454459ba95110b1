"""Projected gradient descent: the iterated, restarted, white-box attack that others are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustsuite.access import BestSoFar, WhiteBox
from robustsuite.access.best_so_far import side_by_side
from robustsuite.core import Streams, checks, losses
from robustsuite.core.rows import per_sample
from robustsuite.plugins import register


@register.attack("pgd", scenario="evasion", access="white-box", taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022"))
@dataclass(frozen=True, kw_only=True)
class PGD:
    """Ascend the loss by fixed steps, projecting back into the ball after each one.

    A sample that reaches the goal is kept where it did and costs no further pass; a restart is tried only on samples
    that are not broken yet. A sample that is never broken is returned where its loss was largest; then each restart
    costs `steps` forward and backward passes and one forward pass for the last iterate.

    Args:
        steps: Gradient steps, at least 1.
        step_size: Length of a step as a fraction of the ball's radius, in (0, 2].
        random_start: Whether the first run starts at a uniform point of the ball; later runs always do.
        restarts: Runs in all, at least 1.
        momentum: Decay of accumulated l1-normalised gradients, in [0, 1]; 0 steps along the plain gradient.
        l1_share: In l1, the share of coordinates over which a step is spread, in [0, 1].
        loss: What to ascend: `cross-entropy`, `margin`, `probability-margin` or `dlr` (the margin, where there are
            fewer than 4 classes).

    Guarantees:
        Start points are keyed by sample id and run, so they are bit-equal in any batch.

    References:
        Madry et al., ICLR 2018, arXiv:1706.06083; momentum: Dong et al., CVPR 2018, arXiv:1710.06081; sparse l1 steps:
        Tramer and Boneh, NeurIPS 2019, arXiv:1904.13000.

    Example:
        >>> PGD(steps=10, step_size=0.25).restarts
        1
    """

    steps: int = 40
    step_size: float = 0.1
    random_start: bool = True
    restarts: int = 1
    momentum: float = 0.0
    l1_share: float = 0.05
    loss: str = "cross-entropy"

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.real("step_size", self.step_size, low=0.0, high=2.0, open_low=True)
        checks.integer("restarts", self.restarts, low=1)
        checks.real("momentum", self.momentum, low=0.0, high=1.0)
        checks.real("l1_share", self.l1_share, low=0.0, high=1.0)
        checks.one_of("loss", self.loss, losses.NAMED)

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)` for the samples of this view."""
        best = BestSoFar(view.x)
        rows = best.left() if view.ball.radius > 0 else view.ids[:0]
        run = 0
        while run < self.restarts and len(rows) > 0:
            together = 1 if run == 0 else side_by_side(self.restarts - run, len(rows), view.full)
            starts = [self._start(view, rows, streams, run + i) for i in range(together)]
            self._ascend(view, torch.cat(starts), rows.repeat(together), best)
            rows, run = best.left(), run + together
        return best.x

    def _start(self, view: WhiteBox, rows: Tensor, streams: Streams, run: int) -> Tensor:
        if run == 0 and not self.random_start:
            return view.x[rows]
        return view.ball.sample(view.x[rows], view.ids[rows], streams.child("start", run))

    def _ascend(self, view: WhiteBox, x: Tensor, rows: Tensor, best: BestSoFar) -> None:
        """One or more runs side by side, from `x`."""
        centre, momentum, ball = view.x[rows], torch.zeros_like(x), view.ball
        loss = losses.NAMED[losses.resolve(self.loss, view.classes)]
        for step in range(self.steps):
            seen = view.value_and_grad(x, rows, loss, progress=step / self.steps, unbroken_only=True)
            x, rows, gradient, centre, momentum = best.go_on(x, rows, seen, centre, momentum)
            if len(rows) == 0:
                return
            momentum = self._accumulate(momentum, gradient)
            x = ball.project(ball.step(x, momentum, self.step_size * ball.radius, share=self.l1_share), centre)
        best.keep(x, rows, *view.value(x, rows, loss, progress=1.0))

    def _accumulate(self, momentum: Tensor, gradient: Tensor) -> Tensor:
        if self.momentum == 0:
            return gradient
        size = gradient.flatten(1).abs().sum(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        return self.momentum * momentum + gradient / per_sample(size, gradient)
