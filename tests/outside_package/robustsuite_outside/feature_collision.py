"""Feature collision: clean labels, and inputs that the network takes for the target."""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustsuite.core import Streams, checks, penultimate
from robustsuite.plugins import register
from robustsuite.scenarios import Poison, TargetedSet


@register.attack("x-feature-collision", scenario="targeted-poisoning", access="surrogate")
@dataclass(frozen=True, kw_only=True)
class FeatureCollision:
    """Move inputs of the wanted class, within the ball, to where the surrogate's features are those of the target.

    The rows are those of the wanted class whose features are nearest to the target's.

    Args:
        steps: Gradient steps, at least 1.
        stay: Weight of the distance to the input as it was, beside that of the features, at least 0.

    References:
        Shafahi et al., NeurIPS 2018, arXiv:1804.00792.
    """

    steps: int = 60
    stay: float = 0.0

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.real("stay", self.stay, low=0.0)

    def __call__(self, view: TargetedSet, streams: Streams) -> Poison:
        """The rows, and what becomes of their inputs."""
        samples, network = view.samples, view.surrogate
        rows = (samples.y == view.wanted).nonzero()[:, 0]
        with torch.no_grad():
            aim = penultimate(network, view.target)
            apart = (penultimate(network, samples.inputs(rows)) - aim).norm(dim=1)
        index = rows[apart.argsort()[: view.budget]].sort().values
        start = samples.inputs(index)
        x = start
        for step in range(self.steps):
            length = 2 * view.ball.radius / self.steps * 2 * (1 - step / self.steps)
            x = view.ball.project(view.ball.step(x, -self._slope(view, x, start, aim), length), start)
        return Poison(index, x, samples.y[index])

    def _slope(self, view: TargetedSet, x: Tensor, start: Tensor, aim: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        far = (penultimate(view.surrogate, x) - aim).square().sum() + self.stay * (x - start).square().sum()
        return torch.autograd.grad(far, x)[0]
