"""Training on noisy inputs: the baseline that adversarial training must beat."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustsuite.core import Ball, Batch, checks
from robustsuite.defenses.adversarial_family import ball_of
from robustsuite.plugins import register
from robustsuite.training import Objective, Recipe, Step


@dataclass(frozen=True, kw_only=True)
class NoisyLoss(Objective):
    """The training loss at inputs with noise, cut to the input bounds.

    Args:
        ball: Uniform noise within this ball; None for Gaussian noise.
        sigma: Standard deviation of Gaussian noise.
    """

    ball: Ball | None
    sigma: float

    def __call__(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        """Losses `(B,)` at the noisy inputs."""
        return step.loss(network(self.noisy(batch, step)), batch.y)

    def noisy(self, batch: Batch, step: Step) -> Tensor:
        """The inputs `(B, …)` with noise that is keyed by their ids."""
        streams = step.streams.child("noise")
        if self.ball is not None:
            return self.ball.within(step.bounds).sample(batch.x, batch.ids, streams)
        noise = self.sigma * streams.normal(batch.ids, batch.x.shape[1:], dtype=batch.x.dtype)
        return (batch.x + noise).clamp(*step.bounds)


@register.defense("noise-training", taxonomy=("AML.M0003", "NISTAML.022", "ML01:2023"))
@dataclass(frozen=True, kw_only=True)
class NoiseTraining:
    """Train on inputs with random noise, uniform within the ball or Gaussian.

    It costs what plain training costs, and is the baseline for adversarial training: it hardly defends against an
    adversary. The best epoch is that of the best clean validation, as in plain training.

    Args:
        sigma: Standard deviation of Gaussian noise in raw input units, above 0; None for uniform noise within the ball.
        norm: `linf`, `l2` or `l1`; by default the threat's.
        radius: In raw input units, at least 0, a number or text such as "8/255"; by default the threat's.

    Raises:
        RequestError: Neither sigma nor a ball.

    References:
        Noise against adversaries: Ford et al., ICML 2019, arXiv:1901.10513.
    """

    sigma: float | None = None
    norm: str | None = None
    radius: float | str | None = None

    def __post_init__(self) -> None:
        if self.sigma is not None:
            checks.real("sigma", self.sigma, low=0.0, open_low=True)
            if self.norm is not None or self.radius is not None:
                given = (self.sigma, self.norm, self.radius)
                raise checks.fail("sigma, or norm and radius", "(sigma, norm, radius)", given, "drop one of them")

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with its objective replaced."""
        ball = ball_of(self, recipe.threat) if self.sigma is None else None
        return recipe.with_objective(NoisyLoss(ball=ball, sigma=self.sigma or 0.0))
