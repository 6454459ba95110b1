"""Ascend the margin, or a loss that no scale of the logits changes, through a differentiable surrogate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from robustsuite.access import BestSoFar, WhiteBox
from robustsuite.core import Streams, checks, losses
from robustsuite.core.rows import per_sample
from robustsuite.plugins import register
from robustsuite.scenarios.evasion.sanity.detectors import past
from robustsuite.scenarios.evasion.sanity.surrogates import StraightThrough

_WEIGHTS: Final = (1.0, 0.3, 3.0)  # of the rejection in the loss, by restart


@register.attack(
    "bpda",
    scenario="evasion",
    access="white-box",
    resolves=(
        "zero-gradients",
        "broken-gradients",
        "misleading-gradients",
        "saturated-loss",
        "gradients-in-forward",
        "nondeterministic",
        "not-adaptive",
        "one-step-better",
        "black-box-better",
        "unbounded-attack-fails",
        "jump-at-boundary",
        "jump-at-clean-inputs",
        "depends-on-batch",
        "depends-on-autograd",
        "unconverged",
        "probabilities",
    ),
    taxonomy=("AML.T0043.000", "ML01:2023", "NISTAML.022"),
)
@dataclass(frozen=True, kw_only=True)
class BPDA:
    """Projected ascent of the margin with momentum and shrinking steps, backward through a differentiable surrogate.

    Where the sanity checks found a surrogate for the model, the view offers it. In what the view offers, functions
    without a gradient (rounding, signs, comparisons, `detach`, `no_grad`) get a straight-through one, and parts that
    keep their input's shape the identity. Where the surrogate has one more output than there are classes, it says how
    far beyond their thresholds the model's detectors are, and the attack brings that down beside raising the margin.
    Success is the deployed model's answer always.

    Args:
        steps: Gradient steps, at least 1.
        step_size: Length of the first step as a fraction of the ball's radius, in (0, 2]; steps shrink to a tenth.
        momentum: Decay of accumulated l1-normalised gradients, in [0, 1].
        restarts: Runs in all, at least 1; the first starts at the sample, the others at random points of the ball. Each
            third one, from the second on, climbs a loss that no scale of the logits changes.
        bridge: Whether to do so with functions without a gradient.

    References:
        Athalye et al., ICML 2018, arXiv:1802.00420; Tramer et al., NeurIPS 2020, arXiv:2002.08347; joint with
        detectors: Carlini and Wagner, AISec 2017, arXiv:1705.07263.
    """

    steps: int = 40
    step_size: float = 0.5
    momentum: float = 0.7
    restarts: int = 3
    bridge: bool = True

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.real("step_size", self.step_size, low=0.0, high=2.0, open_low=True)
        checks.real("momentum", self.momentum, low=0.0, high=1.0)
        checks.integer("restarts", self.restarts, low=1)

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)` for the samples of this view."""
        best = BestSoFar(view.x)
        if view.ball.radius == 0:
            return best.x
        if self.bridge:
            bridged = StraightThrough(view.model, view.classes, view.ball.radius / 2)
            view = replace(view, model=bridged, engine=None)
        for run in range(self.restarts):
            rows = best.left()
            if len(rows) == 0:
                break
            start = view.x[rows]
            if run > 0:
                start = view.ball.sample(start, view.ids[rows], streams.child("start", run))
            self._ascend(view, start, rows, best, _Loss(view.classes, run % len(_WEIGHTS)))
        return best.x

    def _ascend(self, view: WhiteBox, x: Tensor, rows: Tensor, best: BestSoFar, loss: _Loss) -> None:
        centre, momentum = view.x[rows], torch.zeros_like(x)
        for step, length in enumerate(self._lengths(view.ball.radius)):
            seen = view.value_and_grad(x, rows, loss, progress=step / self.steps)
            x, rows, gradient, centre, momentum = best.go_on(x, rows, seen, centre, momentum)
            if len(rows) == 0:
                return
            size = gradient.flatten(1).abs().sum(1).clamp_min(torch.finfo(gradient.dtype).tiny)
            momentum = self.momentum * momentum + gradient / per_sample(size, gradient)
            x = view.ball.project(view.ball.step(x, momentum, length, share=0.05), centre)
        best.keep(x, rows, *view.value(x, rows, loss, progress=1.0))

    def _lengths(self, radius: float) -> Iterator[float]:
        for step in range(self.steps):
            yield self.step_size * radius * max(0.1, 1 - step / self.steps)


@dataclass(frozen=True)
class _Loss:
    """The margin, or one that no scale of the logits changes; with a column for rejection, the normalised margin up to
    enough of it, less the rejection.

    Args:
        classes: Number of classes.
        run: Which run it is for; the second one is without a scale, and each weighs rejection otherwise.
    """

    classes: int
    run: int

    def __call__(self, logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
        """Values `(n,)`."""
        if logits.shape[1] <= self.classes:
            name = "dlr" if self.run == 1 else "margin"
            return losses.NAMED[losses.resolve(name, self.classes)](logits, y, target)
        return past(logits, y, target, classes=self.classes, weight=_WEIGHTS[self.run])
