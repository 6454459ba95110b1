"""Adversarial training: learn from the worst inputs that an attack finds in each batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustsuite.core import Batch
from robustsuite.defenses.adversarial_family import Member, Monitored
from robustsuite.plugins import register
from robustsuite.training import Recipe, Step


@dataclass(frozen=True, kw_only=True)
class AdversarialLoss(Monitored):
    """The training loss at the inputs that an attack finds around each batch."""

    def loss(self, network: nn.Module, batch: Batch, moved: Tensor, step: Step) -> Tensor:
        """Losses `(B,)` at the adversarial inputs."""
        return step.loss(network(moved), batch.y)


@register.defense("adversarial-training", taxonomy=("AML.M0003", "NISTAML.022", "ML01:2023"))
@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Member):
    """Train on the worst inputs that an attack finds around each batch, rather than on the batch itself.

    It replaces the training objective. The attack is a registered evasion attack and sees the network in eval mode
    (dropout off, running statistics of batch normalisation fixed and unmoved by the attack's passes), as TRADES does;
    the weights then learn in training mode. Unlike in a game, a sample that is misclassified on the way is pushed on to
    the greatest loss. After each epoch up to 256 held-out samples, where there are any, are attacked by PGD with 10
    steps, whatever attacks the model is tested by: their robust accuracy picks the best epoch, whose weights are kept.
    Catastrophic overfitting is flagged where PGD breaks three quarters of those that withstand the training attack, and
    at least 0.2 (and more than chance) of all; where it sets in after a sound epoch, training stops. With
    `validation: 0` nobody looks, which is flagged `unmonitored`. The record says how far the robust accuracy of the
    last epoch lay below the best (`robust_overfitting`), and what it cost: PGD with 10 steps takes 12 forward and 11
    backward passes a sample where plain training takes one each (`passes`).

    Args:
        attack: An evasion attack as in a suite's `attacks`: a name, or {name: {options}}; `fgsm-rs` stands for fast
            adversarial training: one step of 1.25 radii from a random start that need not lie within the input bounds,
            to which the result is cut; started within them, most pixels of an image on black would end at an extreme,
            and the training would collapse. `n-fgsm` is one step of one radius from noise of two radii, neither of
            which is projected onto the ball, against catastrophic overfitting. Default: PGD with 10 steps of a quarter
            of the radius.
        norm: `linf`, `l2` or `l1`; by default the threat's.
        radius: In raw input units, at least 0, a number or text such as "8/255"; by default the threat's.
        balls: Several balls to train in, [{norm, radius}, …], in place of norm and radius; the attack plays in each.
        union: What is learnt of several balls: `max`, for each sample its worst input, or `average` of all losses.
        warmup: Epochs over which the radius grows linearly from radius / (warmup + 1), at least 0.

    Raises:
        RequestError: No radius in options or threat, or an attack that is no white-box evasion attack.

    References:
        Madry et al., ICLR 2018, arXiv:1706.06083; fast: Wong et al., ICLR 2020, arXiv:2001.03994; N-FGSM: de Jorge et
        al., NeurIPS 2022, arXiv:2202.01181; catastrophic overfitting: Andriushchenko and Flammarion, NeurIPS 2020,
        arXiv:2007.02617; robust overfitting: Rice et al., ICML 2020, arXiv:2002.11569; unions: Tramer and Boneh,
        NeurIPS 2019, arXiv:1904.13000; eval mode: Zhang et al. (TRADES), ICML 2019, arXiv:1901.08573.
    """

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with its objective replaced."""
        return recipe.with_objective(AdversarialLoss(**self.shared(recipe.threat)))
