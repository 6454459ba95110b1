"""MART: adversarial training that treats samples which are misclassified already with more care."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustsuite.core import Batch, checks
from robustsuite.defenses.adversarial_family import Member, Monitored
from robustsuite.defenses.trades import divergence
from robustsuite.plugins import register
from robustsuite.training import Recipe, Step


def boosted(logits: Tensor, y: Tensor) -> Tensor:
    """`-log(1 - max p_k)` over the wrong classes k, the margin of the boosted cross-entropy `(n,)`."""
    wrong = logits.scatter(1, y[:, None], float("-inf"))
    others = logits.scatter(1, wrong.argmax(1, keepdim=True), float("-inf"))
    return logits.logsumexp(1) - others.logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class MartLoss(Monitored):
    """Boosted cross-entropy at adversarial inputs, and a divergence that weighs more where the clean answer is wrong.

    Args:
        weight: Of the divergence.
    """

    weight: float

    def loss(self, network: nn.Module, batch: Batch, moved: Tensor, step: Step) -> Tensor:
        """Losses `(B,)`."""
        clean, hard = network(batch.x), network(moved)
        doubt = 1 - clean.softmax(1).gather(1, batch.y[:, None])[:, 0]
        losses: Tensor = (
            step.loss(hard, batch.y) + boosted(hard, batch.y) + self.weight * divergence(clean, hard) * doubt
        )
        return losses


@register.defense("mart", taxonomy=("AML.M0003", "NISTAML.022", "ML01:2023"))
@dataclass(frozen=True, kw_only=True)
class Mart(Member):
    """Train on adversarial inputs with a margin, and hold answers together where the clean one is unsure.

    The loss of a sample is `-log p_y(x') - log(1 - max p_k(x')) + weight (1 - p_y(x)) KL(p(x) || p(x'))`, k over the
    wrong classes. The attack ascends its own loss, with the network in eval mode. The weights learn in training mode
    from two passes, clean inputs and then adversarial ones, each normalised by its own batch; running statistics follow
    both. PGD with 10 steps costs 13 forward and 12 backward passes a sample. Monitor, best weights and flags are those
    of `adversarial-training`. It does not defend against other balls.

    Args:
        weight: Lambda, the weight of the divergence, at least 0.
        attack: As in `adversarial-training`; PGD with 10 steps by default.
        norm: `linf`, `l2` or `l1`; by default the threat's.
        radius: In raw input units, at least 0, a number or text such as "8/255"; by default the threat's.
        balls: Several balls to train in, [{norm, radius}, …], in place of norm and radius.
        union: What is learnt of several balls: `max`, for each sample its worst input, or `average` of all losses.
        warmup: Epochs over which the radius grows linearly from radius / (warmup + 1), at least 0.

    Raises:
        RequestError: No radius in options or threat, or an attack that is no white-box evasion attack.

    References:
        Wang et al., ICLR 2020, openreview.net/forum?id=rklOg6EFwS (lambda = 5); it is not on arXiv.
    """

    weight: float = 5.0

    def __post_init__(self) -> None:
        Member.__post_init__(self)
        checks.real("weight", self.weight, low=0.0)

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with its objective replaced."""
        return recipe.with_objective(MartLoss(**self.shared(recipe.threat), weight=self.weight))
