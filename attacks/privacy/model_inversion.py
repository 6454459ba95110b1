"""Model inversion by ascent on the log-probability of a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from robustsuite.core import Streams, checks
from robustsuite.core.isolation import differentiable
from robustsuite.core.rows import per_sample
from robustsuite.plugins import register
from robustsuite.scenarios.inversion import Classes

_LEAP: Final = 0.2  # greatest root mean square of a step, as a share of the input range


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels per image `(n,)`; zero for inputs that are no images.

    Rounded off below a hundredth, or the sign of a rounding error in flat regions would steer the ascent.
    """
    if x.dim() != 4:
        return x.new_zeros(len(x))
    down, across = x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]
    return sum((d.square() + 1e-4).sqrt().flatten(1).mean(1) for d in (down, across))  # type: ignore[return-value]


@register.attack(
    "model-inversion", scenario="inversion", access="white-box", taxonomy=("AML.T0024.001", "ML03:2023", "NISTAML.032")
)
@dataclass(frozen=True, kw_only=True)
class ModelInversion:
    """Find, for all classes at once, an input that the model is sure belongs to the class and that looks like an image.

    Minimises `-log p(class | x) + smoothness * TV(x)` by gradient descent from mid-grey, within the input bounds. A
    class that has reached its confidence goes on for as long as it takes the prior to settle, then stops; the others go
    on to the end. The plain gradient keeps the relief of a class; adaptive steps (Adam) flatten it to a sign pattern.

    Args:
        steps: Most steps, at least 1.
        lr: Step size, per input range and unit of loss, positive; no step moves pixels by more than a fifth of the
            range in root mean square.
        smoothness: Weight of the total-variation prior, at least 0.
        confidence: Probability at which a class counts as solved, in (0, 1).
        settle: Steps at that confidence after which a class stops, at least 1.

    References:
        Fredrikson, Jha, Ristenpart, CCS 2015. Total variation: Mahendran and Vedaldi, CVPR 2015, arXiv:1412.0035.
    """

    steps: int = 400
    lr: float = 1.0
    smoothness: float = 20.0
    confidence: float = 0.9
    settle: int = 200

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.real("lr", self.lr, low=0.0, open_low=True)
        checks.real("smoothness", self.smoothness, low=0.0)
        checks.real("confidence", self.confidence, low=0.0, high=1.0, open_low=True, open_high=True)
        checks.integer("settle", self.settle, low=1)

    def __call__(self, view: Classes, streams: Streams) -> Tensor:  # noqa: ARG002  # nothing is drawn
        """Reconstructions `(K, …)`."""
        low, high = view.bounds
        x = torch.full((len(view.labels), *view.shape), (low + high) / 2, dtype=view.dtype, device=view.device)
        solved = torch.zeros(len(x), dtype=torch.int64, device=view.device)
        active = torch.arange(len(x), device=view.device)
        for _ in range(self.steps):
            slope, probability = self._slope(view, x[active], active)
            solved[active] = torch.where(probability >= self.confidence, solved[active] + 1, 0)
            going = solved[active] < self.settle
            active, slope = active[going], slope[going]
            if not len(active):
                break
            x[active] = (x[active] - self._step(slope, high - low)).clamp(low, high)
        return x

    def _step(self, slope: Tensor, width: float) -> Tensor:
        """The gradient, scaled, and shortened where it would leap."""
        step = self.lr * width**2 * slope
        size = step.flatten(1).square().mean(1).sqrt().clamp_min(1e-30)
        return step * per_sample((_LEAP * width / size).clamp_max(1.0), step)

    def _slope(self, view: Classes, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of the loss, and the probability of the class, per reconstruction."""
        if view.model is None:
            raise checks.fail("a white-box view", "model", None, "play with access='white-box'")
        with differentiable():
            leaf = x.detach().clone().requires_grad_(True)
            log_p = view.model(leaf).log_softmax(1).gather(1, view.labels[rows, None])[:, 0]
            prior = total_variation(leaf / (view.bounds[1] - view.bounds[0]))
            loss = -log_p + self.smoothness * prior
            (slope,) = torch.autograd.grad(loss.sum(), leaf)
        return slope, log_p.detach().exp()
