"""What members of adversarial training share: balls, the attack in each batch, and the monitor that may stop it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from robustsuite.access import WhiteBox
from robustsuite.core import Ball, Batch, RequestError, Samples, Streams, Suspicion, checks, losses
from robustsuite.core.door import labels_of
from robustsuite.core.isolation import untouched
from robustsuite.plugins import attacks
from robustsuite.scenarios import has_norm
from robustsuite.scenarios.protocol import Terms
from robustsuite.training import AdversarialObjective, Recipe, Step, clean_validation
from robustsuite.training.adversarial import UNIONS

_MONITORED: Final = 256  # held-out samples that are attacked after each epoch
_COLLAPSE: Final = 0.2  # share of samples by which the training attack must be weaker than PGD to speak of a collapse
PGD_10: Final[dict[str, Any]] = {"pgd": {"steps": 10, "step_size": 0.25}}
FAST: Final = "fgsm-rs"
NOISY: Final = "n-fgsm"
_SHORTHANDS: Final[dict[str, dict[str, Any]]] = {FAST: {"fgsm": {"step_size": 1.25, "random_start": True}}}


@dataclass(frozen=True, kw_only=True)
class NoisyStep:
    """One step of the ball's radius from a start twice as far out, neither of which is projected; cut to the bounds.

    Only for training: what it finds may lie up to three radii away, which no judge accepts.

    References:
        N-FGSM, with its k = 2 and alpha = epsilon: de Jorge et al., NeurIPS 2022, arXiv:2202.01181.
    """

    noise: float = 2.0

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
        """Inputs `(N, …)` for the samples of this view."""
        ball, rows = view.ball, torch.arange(len(view.x), device=view.x.device)
        around = replace(ball, radius=self.noise * ball.radius, bounds=None)
        start = around.sample(view.x, view.ids, streams.child("start"))
        seen = view.value_and_grad(start, rows, losses.NAMED["cross-entropy"], unbroken_only=True)
        moved = around.step(start, seen.gradient, ball.radius, share=0.05)  # in l1 as FGSM spreads it
        return moved if ball.bounds is None else moved.clamp(*ball.bounds)


@dataclass(frozen=True, kw_only=True)
class Monitored(AdversarialObjective):
    """An adversarial objective that is watched on held-out samples, and ends where its robustness collapses.

    Held-out samples are a share of the training set, and the monitor is the same whatever attacks a suite plays: models
    are never selected on the attack that tests them.

    Args:
        monitor: What held-out samples are attacked by after each epoch, in each ball.
    """

    monitor: Any

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

    def over(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether robustness fell: the weights before are the best that there will be."""
        marks = [row.get("catastrophic_overfitting", 0.0) > 0 for row in history]
        # A start that is weak against every attack but one may grow out of it; only a fall ends the training.
        return any(after and not before for before, after in itertools.pairwise(marks))

    def told(self, history: Sequence[Mapping[str, float]]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Robust accuracy lost between the best epoch and the last; a collapse, or that nobody looked, as a flag."""
        seen = [row for row in history if "robust_accuracy" in row]
        if not seen:
            return {}, (Suspicion.UNMONITORED,)
        robust = [row["robust_accuracy"] for row in seen]
        never = all(row["catastrophic_overfitting"] > 0 for row in seen)
        flags = (Suspicion.CATASTROPHIC_OVERFITTING,) if never or self.over(history) else ()
        return {"robust_overfitting": max(robust) - robust[-1]}, flags

    def _withstood(self, attack: Any, network: nn.Module, batch: Batch, step: Step) -> float:
        """Share of samples that withstand an attack in every ball; None for the training attack."""
        right = torch.ones_like(batch.y, dtype=torch.bool)
        for ball in self.balls:
            moved = self.perturbed(network, batch, step, ball.radius, attack, ball)
            with untouched(network), torch.no_grad():
                right &= labels_of(network(moved)) == batch.y
        return float(right.float().mean())


def _collapsed(trained: float, robust: float, n: int) -> bool:
    """Whether PGD breaks most of what the training attack does not break, by more than chance over n samples."""
    return robust < trained / 4 and trained - robust > max(_COLLAPSE, 3 * math.sqrt(0.5 / n))


@dataclass(frozen=True, kw_only=True)
class Member:
    """Options that every member has which plays an attack in each batch.

    Args:
        attack: An evasion attack as in a suite's `attacks`: a name, or {name: {options}}; `fgsm-rs` or `n-fgsm` for
            fast adversarial training. Default: PGD with 10 steps of a quarter of the radius.
        norm: `linf`, `l2` or `l1`; by default the threat's.
        radius: In raw input units, at least 0, a number or text such as "8/255"; by default the threat's.
        balls: Several balls to train in, [{norm, radius}, …], in place of norm and radius.
        union: What is learnt of several balls: `max`, for each sample its worst input, or `average` of all losses.
        warmup: Epochs over which the radius grows linearly from radius / (warmup + 1), at least 0.
    """

    attack: str | dict[str, Any] | None = None
    norm: str | None = None
    radius: float | str | None = None
    balls: list[dict[str, Any]] | None = None
    union: str = "max"
    warmup: int = 0

    def __post_init__(self) -> None:
        checks.integer("warmup", self.warmup, low=0)
        checks.one_of("union", self.union, UNIONS)

    def check(self, recipe: Recipe, terms: Terms) -> None:
        """Refuse what the training attack refuses: a norm that it does not have, data that it cannot play on."""
        attack, balls = inner_attack(self.attack), self.within(recipe.threat)
        own = getattr(attack, "check", None)
        for ball in balls:
            if not isinstance(attack, NoisyStep):
                has_norm(attacks.get(attack.plugin_name), ball.norm)
            if callable(own):
                own(terms._replace(scenario="evasion", norm=ball.norm))

    def within(self, threat: Ball | None) -> tuple[Ball, ...]:
        """The balls to train in.

        Raises:
            RequestError: No ball in options or threat, both kinds of them, or one that is none.
        """
        if self.balls is None:
            return (ball_of(self, threat),)
        if self.norm is not None or self.radius is not None or len(self.balls) < 2:
            remedy = "name two or more balls, [{norm: linf, radius: 0.3}, {norm: l2, radius: 2}], or norm and radius"
            raise checks.fail("several balls, or one", "balls", self.balls, remedy)
        for ball in self.balls:
            if not isinstance(ball, dict) or set(ball) != {"norm", "radius"}:
                raise checks.fail("{norm, radius}", "balls", ball, "write {norm: linf, radius: 8/255}")
        bounds = None if threat is None else threat.bounds
        return tuple(Ball(ball["norm"], ball["radius"], bounds) for ball in self.balls)

    def shared(self, threat: Ball | None) -> dict[str, Any]:
        """What a `Monitored` objective of this member is given."""
        first, *others = self.within(threat)
        balls = {"ball": first, "others": tuple(others), "union": self.union, "warmup": self.warmup}
        inner, monitor = inner_attack(self.attack), inner_attack(PGD_10)
        return {**balls, "attack": inner, "monitor": monitor, "free": self.attack == FAST}


def ball_of(member: Any, threat: Ball | None) -> Ball:
    """The ball of a member's `norm` and `radius`, and of the threat where it has none.

    Raises:
        RequestError: There is no norm or no radius.
    """
    norm = member.norm if member.norm is not None else (threat.norm if threat is not None else None)
    radius = member.radius if member.radius is not None else (threat.radius if threat is not None else None)
    if norm is None or radius is None:
        raise RequestError(
            f"expected a ball to train in, got norm={norm!r} and radius={radius!r}; set norm and radius of "
            f"{member.plugin_name}, or the suite's threat",
            name="norm",
        )
    return Ball(norm, checks.fraction("radius", radius), None if threat is None else threat.bounds)


def inner_attack(wanted: str | dict[str, Any] | None) -> Any:
    """The attack that `name` or `{name: {options}}` means; None for PGD with 10 steps.

    Raises:
        RequestError: It is no white-box evasion attack, or has no such options.
    """
    if wanted == NOISY:
        return NoisyStep()
    if isinstance(wanted, str):
        wanted = _SHORTHANDS.get(wanted, {wanted: {}})
    wanted = PGD_10 if wanted is None else wanted
    if len(wanted) != 1:
        raise checks.fail("one attack, {name: {options}}", "attack", wanted, "nest the options below the attack's name")
    ((name, options),) = wanted.items()
    entry = attacks.get(name)
    if entry.scenario != "evasion" or entry.access not in ("white-box", "blind"):
        raise RequestError(
            f"expected a white-box evasion attack, got attack={name!r} ({entry.access} {entry.scenario}); choose pgd, "
            f"fgsm-rs or n-fgsm",
            name="attack",
        )
    if options is not None and not isinstance(options, dict):
        raise checks.fail("a mapping of options", f"attack.{name}", options, "write {steps: 10}, say")
    return entry.make(options or {})
