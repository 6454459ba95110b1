"""All canaries, quickest first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from robustsuite.core import checks
from robustsuite.testing.known_answers import doubtful, exact, learned, solvable
from robustsuite.testing.known_answers.known_answer import Canary

CANARIES: Final = (
    Canary("statistics", "intervals and gates decide as the textbook says", exact.statistics),
    Canary("linear", "attacks reach the closed form of a linear model, and the judge counts right", solvable.linear),
    Canary("rejecting", "a rejection is neither a right answer nor a successful attack", solvable.rejecting),
    Canary("masked", "gradients that are hidden are doubted, and give no verdict", doubtful.masked),
    Canary("cheating", "an attack that cheats gains nothing and leaves no trace", doubtful.cheating),
    Canary("determinism", "one seed gives one result", exact.determinism),
    Canary("backdoored", "a planted backdoor is found, and only where it is", learned.backdoored),
    Canary("invertible", "templates that can be read back are read back", learned.invertible),
    Canary("accounting", "a privacy budget is the published one, and its noise is real", exact.accounting),
)


def chosen(names: Iterable[str]) -> tuple[Canary, ...]:
    """The canaries of these names, in their own order; all without any name.

    Raises:
        RequestError: A name that no canary has.
    """
    wanted = {checks.one_of("canary", name, [canary.name for canary in CANARIES]) for name in names}
    return tuple(canary for canary in CANARIES if not wanted or canary.name in wanted)
