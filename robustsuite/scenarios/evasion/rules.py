"""The rules of evasion, and what each adversary gets to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor

from robustsuite.access.engine import PRECISIONS, TRIAL, FastPasses
from robustsuite.access.inputs import Inputs
from robustsuite.access.meter import Meter
from robustsuite.access.oracles import AuxiliaryData
from robustsuite.access.passes import Passes
from robustsuite.access.views import make_view
from robustsuite.core import checks
from robustsuite.core.ball import Ball, Threat, as_ball
from robustsuite.core.deployed import Served, ask
from robustsuite.core.metrics import MetricSpec
from robustsuite.core.samples import Batch
from robustsuite.core.streams import Streams
from robustsuite.scenarios.evasion.figures import METRICS, ROBUST
from robustsuite.scenarios.protocol import Scenario
from robustsuite.scenarios.victim import Victim

ACCESSES: Final = ("white-box", "score-based", "decision-based", "transfer", "blind")
TARGETS: Final = ("next", "random", "least-likely")
_ASKED: Final = ("score-based", "decision-based", "transfer")
VIEW: Final = 128  # samples per view at least, where nothing else is asked for


@dataclass(frozen=True, kw_only=True)
class EvasionRules(Scenario[Inputs, Tensor]):
    """What may be done, and who sees what; `Evasion` is the whole game.

    Only samples that the model gets right (and accepts) are attacked; the others count as broken. An attack sees the
    ball and cannot change it. The judge measures everything again, in another batch size than the attack used.

    The per-sample file holds `id`, `label`, `clean_correct`, `robust` (under this attack alone), `distance` (of what it
    returned; NaN where nothing was attacked), `queries` and, where the attack's passes can be told apart by sample,
    `passes`: forward and backward passes that were spent on the sample until it was first seen to be adversarial, or
    in all where it was not; 0 where nothing was attacked. Samples that share a batch may cost each other a pass. Where
    sanity checks examined the result, `verdict` (robust under its follow-up attacks too) and `found_by` are added.

    Args:
        ball: The perturbation set; bounds default to those of the data.
        access: `white-box`, `score-based`, `decision-based`, `transfer` or `blind`.
        goal: `untargeted` or `targeted`.
        target: How targets are chosen for a targeted goal: `next`, `random` or `least-likely`.
        batch_size: Samples per view, and most in one pass; changes memory and speed, never the result. By default the
            engine measures how many samples fit in fast memory. Sanity checks and follow-ups take 16 (without a
            gradient 64) at once even where fewer are asked for, and halve batches where memory runs out.
        query_budget: Queries per sample for an oracle; None for no limit.
        draws: How often a random model is queried per input; its verdict is the majority.
        precision: `reference`, or `fast` for white-box attacks that take all but their last steps on bfloat16
            gradients, where the hardware has units for them. Success is measured in the model's own precision always.
        minimum_norm: Whether distances are judged, as for attacks of minimum norm: the attack is asked for the nearest
            adversarial input within the bounds, whatever the radius, and a sample is broken where that lies in the
            ball. The per-sample distance then tells at which radius a sample breaks; infinite where none was found.
        follow_up: Whether sanity checks examine the result of a white-box attack, and a doubt starts the follow-up
            attacks that resolve it. What they break never changes the attack's own figures.

    Raises:
        RequestError: A targeted goal without a target, an unknown access, a budget below 1.
    """

    accesses: ClassVar[tuple[str, ...]] = ACCESSES
    options: ClassVar[tuple[str, ...]] = ("query_budget", "draws", "batch_size", "precision", "follow_up")
    sweeps: ClassVar[tuple[str, ...]] = ("radius", "query_budget")
    unruled: ClassVar[tuple[str, ...]] = ("minimum_norm", "follow_up", "precision", "batch_size")
    may_use: ClassVar[tuple[str, ...]] = ("adversary",)
    needs_threat: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, MetricSpec]] = METRICS
    joined: ClassVar[str] = ROBUST
    default_attack: ClassVar[str] = "cascade"
    sound_since: ClassVar[int] = 2  # before, an attack's figures counted what its follow-up attacks broke
    quick: ClassVar[Mapping[str, Any]] = {"batch_size": 32}

    ball: Ball
    access: str = "white-box"
    goal: str = "untargeted"
    target: str | None = None
    batch_size: int | None = field(default=None, repr=False)
    query_budget: int | None = None
    draws: int = 1
    precision: str = "reference"
    minimum_norm: bool = False
    follow_up: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "ball", as_ball(self.ball))
        checks.one_of("access", self.access, ACCESSES)
        checks.one_of("goal", self.goal, ("untargeted", "targeted"))
        if self.goal == "targeted" and self.target is None:
            raise checks.fail("a target for a targeted goal", "target", None, f"choose one of {', '.join(TARGETS)}")
        if self.target is not None:
            checks.one_of("target", self.target, TARGETS)
            if self.goal != "targeted":
                raise checks.fail("goal='targeted' beside a target", "goal", self.goal, "set it, or drop the target")
        checks.one_of("precision", self.precision, PRECISIONS)
        if self.batch_size is not None:
            checks.integer("batch_size", self.batch_size, low=1)
        checks.integer("draws", self.draws, low=1)
        if self.query_budget is not None:
            checks.integer("query_budget", self.query_budget, low=1)

    @classmethod
    def arrange(cls, access: str, threat: Threat | None, options: Mapping[str, Any]) -> Self:
        """The game in the threat's ball and for its goal."""
        if threat is None:
            raise checks.fail("a threat model for evasion", "threat", None, "set threat: {norm: linf, radius: 0.3}")
        rules = {"query_budget": threat.query_budget, **options}
        return cls(ball=threat.ball, goal=threat.goal, target=threat.target, access=access, **rules)

    @classmethod
    def has_curve(cls, access: str, *, minimum_norm: bool) -> bool:
        """White boxes have one; an attack of minimum norm tells it by the distances of one pass."""
        return access == "white-box" and not minimum_norm

    def views(self, victim: Victim) -> Iterator[Inputs]:
        """One view per batch of samples that the model gets right, all sharing one meter."""
        yield from self.views_of(victim, victim.correct.nonzero()[:, 0], self.searched(victim))

    def views_of(self, victim: Victim, rows: Tensor, ball: Ball, target: Tensor | None = None) -> Iterator[Inputs]:
        """One view per batch of these test samples, all sharing one meter.

        Args:
            victim: Who is attacked.
            rows: Places of the samples among the victim's `(n,)`.
            ball: Where adversarial inputs may lie.
            target: Labels to reach `(N,)`, of all of the victim's samples; None for those that the goal asks for.
        """
        reach = self.ball.radius if self.minimum_norm else None
        meter = Meter(passes=Passes(victim.test.ids[rows], reach=reach, device=victim.device))
        engine = self._engine(victim, rows, meter)
        auxiliary = (
            AuxiliaryData((victim.part("adversary") or victim.train or victim.test).copy())
            if self.access == "transfer"
            else None
        )
        at_once = self.batch_size or max(VIEW, engine.batch if engine is not None else 0)
        for index in torch.split(rows, at_once) if len(rows) > 0 else ():
            batch = victim.test.batch(index, victim.device)
            common: dict[str, Any] = {
                "x": victim.given(batch.x),
                "y": batch.y,
                "ids": batch.ids,
                "ball": ball,
                "classes": victim.test.classes,
                "target": self.targets(victim, batch) if target is None else target[index],
                "meter": meter,
                "minimum_norm": self.minimum_norm,
                "grid": victim.grid,
            }
            yield make_view(self.access, victim.model, common, self.query_budget, engine, auxiliary)

    def searched(self, victim: Victim) -> Ball:
        """Where adversarial inputs may lie: the ball, or anywhere within the bounds where distances are judged."""
        if self.minimum_norm and self.ball.radius > 0:
            return self.ball.everywhere(victim.test.shape, victim.test.bounds)
        return self.ball.within(victim.test.bounds)

    def _engine(self, victim: Victim, rows: Tensor, meter: Meter) -> FastPasses | None:
        # An oracle's answers may come from a copy where the network's logits are all that decides them.
        asked = self.access in _ASKED and isinstance(victim.model, Served)
        if len(rows) == 0 or not (asked or self.access == "white-box"):
            return None
        some = victim.given(victim.test.batch(rows[:TRIAL], victim.device).x)
        network, most = victim.model.surrogate(), self.batch_size
        return FastPasses(network, some, precision=self.precision, most=most, notes=meter.notes)

    def targets(self, victim: Victim, batch: Batch) -> Tensor | None:
        """The label that each of these samples shall be read as, `(n,)`; None for an untargeted goal."""
        y, classes = batch.y, victim.test.classes
        if self.goal == "untargeted":
            return None
        if self.target == "next":
            return (y + 1) % classes
        if self.target == "random":
            shift = 1 + Streams(0).child("targets").integers(batch.ids, classes - 1)
            return (y + shift) % classes
        with torch.no_grad():
            logits = ask(victim.model, victim.given(batch.x)).logits
        return logits.scatter(1, y[:, None], float("inf")).argmin(1)
