"""Under which conditions follow-up attacks are played: keeping to inputs of one kind, or one input at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor

from robustsuite.core.streams import Streams
from robustsuite.core.suspicions import Effect, Suspicion
from robustsuite.core.traits import traits_of
from robustsuite.scenarios.evasion.rules import EvasionRules
from robustsuite.scenarios.evasion.sanity.clean_points import beside, set_apart
from robustsuite.scenarios.evasion.sanity.probe import Look
from robustsuite.scenarios.victim import Victim

_JUMPING: Final = 0.1  # share of samples up to which answers may still jump beside clean inputs


@dataclass(frozen=True, eq=False)
class Way:
    """Conditions of a follow-up attack.

    Args:
        name: What it keeps to, for the record; empty for nothing but the rules.
        victim: Who is attacked, with what adversarial inputs must keep.
        alone: Whether each input is asked by itself.
        settles: Whether what a sound gradient does not break here is robust.
    """

    name: str
    victim: Victim
    alone: bool
    settles: bool

    @property
    def bound(self) -> bool:
        """Whether adversarial inputs must keep something."""
        return self.victim.traits is not None

    def look(self, game: EvasionRules, chosen: Tensor) -> Look:
        """The first of these test samples, under these conditions."""
        return replace(Look.at(self.victim, game, chosen), alone=self.alone)


def ways(victim: Victim, game: EvasionRules, causes: frozenset[Suspicion]) -> list[Way]:
    """How follow-up attacks are played where these suspicions were raised, in this order.

    Where clean inputs are treated apart, those ways within what they share settle anything in which inputs beside them
    are not.
    """
    alone, apart = Suspicion.DEPENDS_ON_BATCH in causes, Suspicion.JUMP_AT_CLEAN in causes
    batch = ("one input at a time",) if alone else ()
    found = []
    if apart:
        x = victim.given(victim.test.inputs().to(victim.device))
        look = replace(Look.at(victim, game, victim.correct), alone=alone)
        streams = Streams(0).child("traits")
        others = set_apart(look, look.margin(look.x), streams)
        for traits in (*traits_of(x, victim.test.bounds[0], victim.numbers), *others):
            bound = replace(victim, traits=traits)
            way = Way(", ".join((f"keeping {traits.name}", *batch)), bound, alone, settles=False)
            look = way.look(game, victim.correct)
            jumping = beside(look, look.margin(look.x), streams)
            found.append(replace(way, settles=jumping <= _JUMPING))
    gates = {Suspicion.JUMP_AT_CLEAN, Suspicion.DEPENDS_ON_BATCH, *Suspicion.that(Effect.MILD)}
    if not any(way.settles for way in found) or causes - gates:
        found.append(Way(", ".join(batch), victim, alone, settles=True))
    return found
