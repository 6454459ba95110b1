"""TRADES: accuracy on clean inputs, and the same answers in the ball around them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.core import Batch, RequestError, checks
from robustsuite.plugins import attack, register
from robustsuite.training import AdversarialObjective, Recipe, Step


@dataclass(frozen=True, kw_only=True)
class TradesLoss(AdversarialObjective):
    """The clean loss plus `beta` times the greatest divergence of answers within the ball."""

    beta: float

    def ascend(self, network: nn.Module, batch: Batch, step: Step) -> Callable[[Tensor, Tensor], Tensor]:
        """The divergence from the clean answers."""
        with torch.no_grad():
            clean = network(batch.x)
        return lambda logits, rows: divergence(logits, clean[rows])

    def loss(self, network: nn.Module, batch: Batch, moved: Tensor, step: Step) -> Tensor:
        """Losses `(B,)`."""
        clean = network(batch.x)
        return step.loss(clean, batch.y) + self.beta * divergence(network(moved), clean)


def divergence(logits: Tensor, clean: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each answer from the clean one `(n,)`."""
    return F.kl_div(logits.log_softmax(1), clean.softmax(1), reduction="none").sum(1)


@register.defense("x-trades")
@dataclass(frozen=True, kw_only=True)
class Trades:
    """Train on clean inputs, and against answers that differ within the threat's ball.

    It costs as many passes as its attack has steps. It does not defend against other balls.

    Args:
        beta: Weight of the divergence, above 0.
        steps: Of the PGD attack in each batch, at least 1.

    References:
        Zhang et al., ICML 2019, arXiv:1901.08573.
    """

    beta: float = 6.0
    steps: int = 10

    def __post_init__(self) -> None:
        checks.real("beta", self.beta, low=0.0, open_low=True)
        checks.integer("steps", self.steps, low=1)

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with its objective replaced."""
        if recipe.threat is None:
            raise RequestError("expected a ball to train in, got threat=None; set the suite's threat")
        inner = attack("pgd", steps=self.steps, step_size=0.25)
        return recipe.with_objective(TradesLoss(attack=inner, ball=recipe.threat, beta=self.beta))
