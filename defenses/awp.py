"""Adversarial weight perturbation: learn at the weights nearby at which the loss is worst."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustsuite.core import Batch, Samples, checks
from robustsuite.plugins import register
from robustsuite.training import AdversarialObjective, Objective, Recipe, Step

Learn = Callable[[nn.Module], Tensor]
"""A network to losses `(B,)`."""


class _At(nn.Module):
    """A network that answers with other tensors in the place of its own."""

    def __init__(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._given = (network, tensors)  # in a tuple, so that it is no part of this module

    def forward(self, x: Tensor) -> Tensor:
        """Raw inputs `(N, …)` to logits."""
        network, tensors = self._given
        logits: Tensor = functional_call(network, dict(tensors), (x,))
        return logits


@dataclass(frozen=True, kw_only=True)
class PerturbedWeights(Objective):
    """Any objective at weights that were moved against it.

    The perturbation is a constant in the graph, so the gradient that reaches the weights is the one at the perturbed
    weights, and whatever update there is steps from the weights themselves.

    Args:
        inner: The objective.
        gamma: Norm of the perturbation of a layer's weights, as a share of the weights' own.
    """

    inner: Objective
    gamma: float

    def __call__(self, network: nn.Module, batch: Batch, step: Step) -> Tensor:
        """Losses `(B,)` at the perturbed weights."""
        inner = self.inner
        if not isinstance(inner, AdversarialObjective):
            return self._learn(network, lambda at: inner(at, batch, step))
        found = inner.found(network, batch, step)  # once, and at the weights themselves
        return self._learn(network, lambda at: inner.learn(at, batch, found, step))

    def _learn(self, network: nn.Module, learn: Learn) -> Tensor:
        return learn(_At(network, self.perturbed(network, learn)))

    def perturbed(self, network: nn.Module, learn: Learn) -> dict[str, Tensor]:
        """Layers' weights, each moved up the loss by `gamma` times its own norm; biases and gains stay."""
        layers = {name: w for name, w in network.named_parameters() if w.requires_grad and w.ndim > 1}
        copies = {name: buffer.clone() for name, buffer in network.named_buffers()}  # which this pass may move
        losses = learn(_At(network, copies))
        slopes = torch.autograd.grad(losses.mean(), list(layers.values()), allow_unused=True)
        moved = {}
        for (name, w), slope in zip(layers.items(), slopes, strict=True):
            if slope is not None:
                tiny = torch.finfo(slope.dtype).tiny
                moved[name] = w + (self.gamma * w.norm() / slope.norm().clamp_min(tiny) * slope).detach()
        return moved

    def validate(self, network: nn.Module, held_out: Samples, step: Step) -> dict[str, float]:
        """As the objective does, at the weights themselves."""
        return self.inner.validate(network, held_out, step)

    def over(self, history: Sequence[Mapping[str, float]]) -> bool:
        """As the objective says."""
        return self.inner.over(history)

    def told(self, history: Sequence[Mapping[str, float]]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """As the objective says."""
        return self.inner.told(history)


@register.defense("awp", taxonomy=("AML.M0003", "NISTAML.022", "ML01:2023"))
@dataclass(frozen=True, kw_only=True)
class WeightPerturbation:
    """Learn at weights that were moved against the training loss, on top of any defence that says what that loss is.

    `[trades, awp]` is TRADES with it; alone it acts on the plain loss, and makes no network robust. In each step the
    weights of every layer (matrices and kernels, not biases and gains) move up the loss by `gamma` of their norm; the
    gradient is taken there, and the step from where they were. Adversarial inputs are found once, at the weights
    themselves. It costs one more forward and backward pass of what is learnt from, two for a loss of two passes;
    running statistics of batch normalisation follow only the pass at the perturbed weights, and the deployed weights
    are the unperturbed ones. The perturbation is one for the whole batch, so DP-SGD refuses it.

    Args:
        gamma: Norm of a layer's perturbation as a share of the norm of its weights, above 0.

    References:
        Wu et al., NeurIPS 2020, arXiv:2004.05884 (gamma = 0.005 to 0.01).
    """

    gamma: float = 0.005

    def __post_init__(self) -> None:
        checks.real("gamma", self.gamma, low=0.0, open_low=True)

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with its objective wrapped."""
        return recipe.with_objective_around(lambda inner: PerturbedWeights(inner=inner, gamma=self.gamma))
