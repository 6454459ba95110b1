"""Where the kit plays an attack on small victims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from robustsuite.core.ball import Ball, Threat
from robustsuite.core.metric import Metrics
from robustsuite.core.samples import Samples
from robustsuite.plugins.registry import Entry
from robustsuite.scenarios import game
from robustsuite.scenarios.case import Case
from robustsuite.scenarios.play import play
from robustsuite.scenarios.protocol import Scenario
from robustsuite.scenarios.victim import Victim
from robustsuite.testing.law import require
from robustsuite.testing.victims import tiny_parts, tiny_recipe, tiny_samples, tiny_victim
from robustsuite.training.cache import Trainer
from robustsuite.training.jobs import Job

_RADII: Final = {"linf": 0.1, "l2": 0.8, "l1": 3.0}


@dataclass(frozen=True)
class TinyBench:
    """A `Bench` of victims that are trained in a second.

    Args:
        entry: The attack as it is registered.
        options: Its options.
    """

    entry: Entry
    options: Mapping[str, Any]

    def attack(self) -> Any:
        """The attack with these options."""
        return self.entry.make(dict(self.options))

    def victim(
        self,
        n: int = 101,
        classes: int = 4,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        dtype: torch.dtype | None = None,
    ) -> Victim:
        """A trained network with its recipe, training data and trainer, and `n` test samples."""
        return tiny_victim(n, classes, bounds=bounds, dtype=dtype or torch.float32)

    def samples(self, n: int, classes: int = 4) -> Samples:
        """Training data of that kind."""
        return tiny_samples(n, classes)

    def case(self, n: int, classes: int = 4) -> Case:
        """What is known of a cell with so many training samples, before anything is trained."""
        test = tiny_samples(101, classes, first=10_000)
        return Case(tiny_samples(n, classes), tiny_recipe(), tiny_parts(classes), 0, test)

    def train(self, job: Job) -> nn.Module:
        """The network of a job."""
        return Trainer(0, part=tiny_parts()).job(job).model.network

    def game(
        self, victim: Victim, *, norm: str = "", scale: float = 1.0, rules: Mapping[str, Any] | None = None
    ) -> Scenario[Any, Any]:
        """The game that this attack plays, by the scenario's quick rules."""
        kind = self.entry.game
        given = {**kind.quick, **(rules or {})}
        return game(self.entry, Threat(ball=self._ball(victim, norm, scale)) if kind.needs_threat else None, given)

    def play(
        self,
        victim: Victim,
        *,
        norm: str = "",
        scale: float = 1.0,
        seed: int = 0,
        rules: Mapping[str, Any] | None = None,
    ) -> Metrics:
        """One whole game of this attack, in its own ball or in that of another norm."""
        return play(self.attack(), self.game(victim, norm=norm, scale=scale, rules=rules), victim, seed=seed)

    def radius(self, victim: Victim, *, norm: str = "", scale: float = 1.0) -> float:
        """The radius of that ball."""
        return self._ball(victim, norm, scale).radius

    def require(self, holds: bool, law: str, seen: object) -> None:
        """Raise `LawBroken` where a law does not hold."""
        require(holds, law, seen)

    def _ball(self, victim: Victim, norm: str, scale: float) -> Ball:
        (low, high), name = victim.test.bounds, norm or self.entry.norms[0]
        return Ball(name, _RADII[name] * (high - low) * scale)
