"""The game of evasion: what is judged, and what is examined after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robustsuite.access.inputs import Inputs
from robustsuite.core.errors import RobustsuiteError
from robustsuite.core.metric import Metrics
from robustsuite.plugins import registry
from robustsuite.plugins.registry import register
from robustsuite.scenarios.bench import Laws
from robustsuite.scenarios.evasion.judge import Judge
from robustsuite.scenarios.evasion.laws import LAWS
from robustsuite.scenarios.evasion.rules import EvasionRules
from robustsuite.scenarios.evasion.sanity.follow_up import followed_up, startable
from robustsuite.scenarios.protocol import Attack, Reviewed
from robustsuite.scenarios.victim import Victim


@register.scenario("evasion")
@dataclass(frozen=True, kw_only=True)
class Evasion(EvasionRules):
    """Find an input near a correctly classified one that the deployed model gets wrong, by the rules of the base."""

    @classmethod
    def laws(cls) -> Laws:
        """What is returned lies in the ball, and verdicts rest on nothing but the rules."""
        return LAWS

    def score(self, victim: Victim, moves: Iterable[tuple[Inputs, Tensor]]) -> Metrics:
        """Check each artefact against the ball, measure it again, and count."""
        judge = Judge(self, victim)
        for view, artefact in moves:
            judge.take(view, artefact)
        return judge.verdict()

    def review(self, attack: Attack[Inputs, Tensor], victim: Victim, metrics: Metrics, *, seed: int) -> Reviewed:
        """Let sanity checks examine the verdict, and follow-up attacks resolve what they suspect.

        Only white-box attacks of more than one step are examined, and only where `follow_up` is on.
        """
        if not self._is_examined(attack) or "robust" not in metrics.per_sample:
            return Reviewed(metrics)
        return followed_up(metrics, attack, self, victim, seed=seed)

    def starts(self, attack: Attack[Inputs, Tensor]) -> tuple[type[Any], ...]:
        """What may follow this attack up."""
        return startable(self) if self._is_examined(attack) else ()

    def _is_examined(self, attack: object) -> bool:
        if not self.follow_up or self.access != "white-box" or self.ball.radius == 0:
            return False
        if getattr(attack, "one_step", False):
            return False
        try:
            return not registry.attacks.get(getattr(attack, "plugin_name", "")).control
        except RobustsuiteError:
            return True
