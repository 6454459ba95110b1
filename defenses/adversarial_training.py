"""Adversarial training: learn from the worst inputs that an attack finds in each batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from robustsuite.core import Ball, Batch, RequestError, Samples, checks
from robustsuite.core.door import labels_of
from robustsuite.core.isolation import untouched
from robustsuite.plugins import attacks, register
from robustsuite.scenarios import has_norm
from robustsuite.scenarios.protocol import Terms
from robustsuite.training import AdversarialObjective, Recipe, Step, clean_validation

_MONITORED: Final = 256  # held-out samples that are attacked after each epoch
_COLLAPSE: Final = 0.2  # share of samples by which the training attack must be weaker than PGD to speak of a collapse
_FAST: Final = "fgsm-rs"
_SHORTHANDS: Final[dict[str, dict[str, Any]]] = {_FAST: {"fgsm": {"step_size": 1.25, "random_start": True}}}


@dataclass(frozen=True, kw_only=True)
class AdversarialLoss(AdversarialObjective):
    """The training loss at the inputs that an attack finds around each batch.

    Args:
        monitor: What held-out samples are attacked by after each epoch.
    """

    monitor: Any

    def loss(self, network: nn.Module, batch: Batch, moved: Tensor, step: Step) -> Tensor:
        """Losses `(B,)` at the adversarial inputs."""
        return step.loss(network(moved), batch.y)

    def validate(self, network: nn.Module, held_out: Samples, step: Step) -> dict[str, float]:
        """Clean figures, robust accuracy under a short PGD, and whether only the training attack is withstood.

        The score is the robust accuracy; clean accuracy breaks ties.
        """
        figures = clean_validation(network, held_out, step)
        rows = torch.linspace(0, len(held_out) - 1, min(len(held_out), _MONITORED)).long()
        batch = held_out.batch(rows, next(network.parameters()).device)
        robust = self._withstood(self.monitor, network, batch, step)
        trained = self._withstood(None, network, batch, step)
        figures["robust_accuracy"] = robust
        figures["catastrophic_overfitting"] = float(_collapsed(trained, robust, len(rows)))
        figures["score"] = robust + 1e-3 * figures["validation_accuracy"]
        return figures

    def _withstood(self, attack: Any, network: nn.Module, batch: Batch, step: Step) -> float:
        moved = self.perturbed(network, batch, step, self.ball.radius, attack)
        with untouched(network), torch.no_grad():
            return float((labels_of(network(moved)) == batch.y).float().mean())


def _collapsed(trained: float, robust: float, n: int) -> bool:
    """Whether PGD breaks most of what the training attack does not break, by more than chance over n samples."""
    return robust < trained / 4 and trained - robust > max(_COLLAPSE, 3 * math.sqrt(0.5 / n))


@register.defense("adversarial-training", taxonomy=("AML.M0003", "NISTAML.022", "ML01:2023"))
@dataclass(frozen=True, kw_only=True)
class AdversarialTraining:
    """Train on the worst inputs that an attack finds around each batch, rather than on the batch itself.

    It replaces the training objective. The attack is a registered evasion attack and sees the network in eval mode
    (dropout off, running statistics of batch normalisation fixed and unmoved by the attack's passes), as TRADES does;
    the weights then learn in training mode. Unlike in a game, a sample that is misclassified on the way is pushed on to
    the greatest loss. After each epoch up to 256 held-out samples, where there are any, are attacked by PGD with 10
    steps: their robust accuracy picks the best epoch. Catastrophic overfitting is flagged where PGD breaks three
    quarters of those that withstand the training attack, and at least 0.2 (and more than chance) of all.

    Args:
        attack: An evasion attack as in a suite's `attacks`: a name, or {name: {options}}; `fgsm-rs` stands for fast
            adversarial training: one step of 1.25 radii from a random start that need not lie within the input bounds,
            to which the result is cut; started within them, most pixels of an image on black would end at an extreme,
            and the training would collapse. Default: PGD with 10 steps of a quarter of the radius.
        norm: `linf`, `l2` or `l1`; by default the threat's.
        radius: In raw input units, at least 0, a number or text such as "8/255"; by default the threat's.
        warmup: Epochs over which the radius grows linearly from radius / (warmup + 1), at least 0.

    Raises:
        RequestError: No radius in options or threat, or an attack that is no white-box evasion attack.

    References:
        Madry et al., ICLR 2018, arXiv:1706.06083; fast: Wong et al., ICLR 2020, arXiv:2001.03994; catastrophic
        overfitting: Andriushchenko and Flammarion, NeurIPS 2020, arXiv:2007.02617; eval mode: Zhang et al. (TRADES),
        ICML 2019, arXiv:1901.08573.
    """

    attack: str | dict[str, Any] | None = None
    norm: str | None = None
    radius: float | str | None = None
    warmup: int = 0

    def __post_init__(self) -> None:
        checks.integer("warmup", self.warmup, low=0)

    def check(self, recipe: Recipe, terms: Terms) -> None:
        """Refuse what the training attack refuses: a norm that it does not have, data that it cannot play on."""
        attack, ball = self._attack(), self._ball(recipe.threat)
        has_norm(attacks.get(attack.plugin_name), ball.norm)
        own = getattr(attack, "check", None)
        if callable(own):
            own(terms._replace(scenario="evasion", norm=ball.norm))

    def _attack(self) -> Any:
        return _inner_attack({"pgd": {"steps": 10, "step_size": 0.25}} if self.attack is None else self.attack)

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with its objective replaced."""
        objective = AdversarialLoss(
            attack=self._attack(),
            ball=self._ball(recipe.threat),
            monitor=_inner_attack({"pgd": {"steps": 10, "step_size": 0.25}}),
            warmup=self.warmup,
            free=self.attack == _FAST,
        )
        return recipe.with_objective(objective)

    def _ball(self, threat: Ball | None) -> Ball:
        norm = self.norm if self.norm is not None else (threat.norm if threat is not None else None)
        radius = self.radius if self.radius is not None else (threat.radius if threat is not None else None)
        if norm is None or radius is None:
            raise RequestError(
                f"expected a ball to train in, got norm={norm!r} and radius={radius!r}; set norm and radius of "
                f"adversarial-training, or the suite's threat",
                name="norm",
            )
        ball = Ball(norm, checks.fraction("radius", radius))
        return ball if threat is None else replace(ball, bounds=threat.bounds)


def _inner_attack(wanted: str | dict[str, Any]) -> Any:
    """The attack that `name` or `{name: {options}}` means."""
    if isinstance(wanted, str):
        wanted = _SHORTHANDS.get(wanted, {wanted: {}})
    if len(wanted) != 1:
        raise checks.fail("one attack, {name: {options}}", "attack", wanted, "nest the options below the attack's name")
    ((name, options),) = wanted.items()
    entry = attacks.get(name)
    if entry.scenario != "evasion" or entry.access not in ("white-box", "blind"):
        raise RequestError(
            f"expected a white-box evasion attack, got attack={name!r} ({entry.access} {entry.scenario}); choose pgd "
            f"or fgsm-rs",
            name="attack",
        )
    if options is not None and not isinstance(options, dict):
        raise checks.fail("a mapping of options", f"attack.{name}", options, "write {steps: 10}, say")
    return entry.make(options or {})
