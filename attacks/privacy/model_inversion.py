"""Model inversion by ascent on the log-probability of a class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustsuite import checks
from robustsuite.isolation import differentiable
from robustsuite.registry import register
from robustsuite.scenarios.inversion import Classes
from robustsuite.streams import Streams


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels per image `(n,)`; zero for inputs that are no images.

    Rounded off below a hundredth, or the sign of a rounding error in flat regions would steer the ascent.
    """
    if x.dim() != 4:
        return x.new_zeros(len(x))
    down, across = x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]
    return sum((d.square() + 1e-4).sqrt().flatten(1).mean(1) for d in (down, across))  # type: ignore[return-value]


@register.attack(
    "model-inversion", scenario="inversion", access="white-box", taxonomy=("AML.T0024.001", "ML03:2023", "NISTAML.033")
)
@dataclass(frozen=True, kw_only=True)
class ModelInversion:
    """Find, for all classes at once, an input that the model is sure belongs to the class and that looks like an image.

    Minimises `-log p(class | x) + smoothness * TV(x)` by Adam from mid-grey, within the input bounds. A class stops as
    soon as its confidence has been reached and its loss no longer falls; the others go on.

    Args:
        steps: Most steps, at least 1.
        lr: Step size of Adam as a fraction of the input range, in (0, 1].
        smoothness: Weight of the total-variation prior, at least 0.
        confidence: Probability at which a class counts as solved, in (0, 1).
        patience: Steps without progress after which a solved class stops, at least 1.

    References:
        Fredrikson, Jha, Ristenpart, CCS 2015. Total variation: Mahendran and Vedaldi, CVPR 2015, arXiv:1412.0035.
    """

    steps: int = 300
    lr: float = 0.02
    smoothness: float = 5.0
    confidence: float = 0.99
    patience: int = 20

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.real("lr", self.lr, low=0.0, high=1.0, open_low=True)
        checks.real("smoothness", self.smoothness, low=0.0)
        checks.real("confidence", self.confidence, low=0.0, high=1.0, open_low=True, open_high=True)
        checks.integer("patience", self.patience, low=1)

    def __call__(self, view: Classes, streams: Streams) -> Tensor:  # noqa: ARG002  # nothing is drawn
        """Reconstructions `(K, …)`: for each class the best point met."""
        low, high = view.bounds
        x = torch.full((len(view.labels), *view.shape), (low + high) / 2, dtype=view.dtype, device=view.device)
        best, best_loss = x.clone(), torch.full((len(x),), float("inf"), dtype=view.dtype, device=view.device)
        first, second, stale = torch.zeros_like(x), torch.zeros_like(x), torch.zeros(len(x), device=view.device)
        active = torch.arange(len(x), device=view.device)
        for step in range(1, self.steps + 1):
            loss, slope, probability = self._slope(view, x[active], active)
            better = loss < best_loss[active] - 1e-4
            improved = active[better]
            best[improved], best_loss[improved] = x[improved], loss[better]
            stale[active] = torch.where(better, 0, stale[active] + 1)
            going = ~((probability >= self.confidence) & (stale[active] >= self.patience))
            active, slope = active[going], slope[going]
            if not len(active):
                break
            first[active] = 0.9 * first[active] + 0.1 * slope
            second[active] = 0.999 * second[active] + 0.001 * slope.square()
            scale = (second[active] / (1 - 0.999**step)).sqrt() + 1e-8
            moved = x[active] - self.lr * (high - low) * (first[active] / (1 - 0.9**step)) / scale
            x[active] = moved.clamp(low, high)
        return best

    def _slope(self, view: Classes, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, its gradient and the probability of the class, per reconstruction."""
        if view.model is None:
            raise checks.fail("a white-box view", "model", None, "play with access='white-box'")
        with differentiable():
            leaf = x.detach().clone().requires_grad_(True)
            log_p = view.model(leaf).log_softmax(1).gather(1, view.labels[rows, None])[:, 0]
            prior = total_variation(leaf / (view.bounds[1] - view.bounds[0]))
            loss = -log_p + self.smoothness * prior
            (slope,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), slope, log_p.detach().exp()
