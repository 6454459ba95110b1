"""TRADES: accuracy on clean inputs, and the same answers in the ball around them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.core import Batch, checks
from robustsuite.defenses.adversarial_family import Member, Monitored
from robustsuite.plugins import register
from robustsuite.training import Recipe, Step
from robustsuite.training.adversarial import Ascend


def divergence(clean: Tensor, logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(clean || logits) of the answers of two sets of logits `(n, classes)`: `(n,)`."""
    return F.kl_div(logits.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


@dataclass(frozen=True, kw_only=True)
class TradesLoss(Monitored):
    """The clean loss, and `beta` times the divergence of the answer from the clean one.

    Args:
        beta: Weight of the divergence.
    """

    beta: float

    def ascend(self, network: nn.Module, batch: Batch, step: Step) -> Ascend:  # noqa: ARG002
        """The divergence from the clean answers, with the network in eval mode."""
        with torch.no_grad():
            clean = network(batch.x)
        return lambda logits, rows: divergence(clean[rows], logits)

    def loss(self, network: nn.Module, batch: Batch, moved: Tensor, step: Step) -> Tensor:
        """Losses `(B,)`."""
        clean = network(batch.x)
        return step.loss(clean, batch.y) + self.beta * divergence(clean, network(moved))


@register.defense("trades", taxonomy=("AML.M0003", "NISTAML.022", "ML01:2023"))
@dataclass(frozen=True, kw_only=True)
class Trades(Member):
    """Train on clean inputs, and against answers that differ from theirs within the ball.

    The attack, whatever its own loss, ascends the divergence KL(p(x) || p(x')) from the clean answer, with the network
    in eval mode. That divergence is flat at x, so the attack must start elsewhere (PGD does, plain `fgsm` finds
    nothing). The weights learn in training mode from two passes, clean inputs and then adversarial ones, each
    normalised by its own batch; running statistics follow both, so the deployed network has about the mean of the two.
    PGD with 10 steps costs 14 forward and 12 backward passes a sample. Monitor, best weights and flags are those of
    `adversarial-training`. It does not defend against other balls.

    Args:
        beta: Weight of the divergence, above 0; greater ones trade clean accuracy for robustness.
        attack: As in `adversarial-training`; PGD with 10 steps by default.
        norm: `linf`, `l2` or `l1`; by default the threat's.
        radius: In raw input units, at least 0, a number or text such as "8/255"; by default the threat's.
        balls: Several balls to train in, [{norm, radius}, …], in place of norm and radius.
        union: What is learnt of several balls: `max`, for each sample its worst input, or `average` of all losses.
        warmup: Epochs over which the radius grows linearly from radius / (warmup + 1), at least 0.

    Raises:
        RequestError: No radius in options or threat, or an attack that is no white-box evasion attack.

    References:
        Zhang et al., ICML 2019, arXiv:1901.08573 (beta = 6).
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        Member.__post_init__(self)
        checks.real("beta", self.beta, low=0.0, open_low=True)

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with its objective replaced."""
        return recipe.with_objective(TradesLoss(**self.shared(recipe.threat), beta=self.beta))
