"""All known-answer tests, quickest first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from robustsuite.core import checks
from robustsuite.testing.known_answers import doubtful, exact, learned, solvable
from robustsuite.testing.known_answers.known_answer import KnownAnswer

ALL: Final = (
    KnownAnswer("statistics", "intervals and gates decide as the textbook says", exact.statistics),
    KnownAnswer(
        "linear", "attacks reach the closed form of a linear model, and the judge counts right", solvable.linear
    ),
    KnownAnswer("rejecting", "a rejection is neither a right answer nor a successful attack", solvable.rejecting),
    KnownAnswer("masked", "gradients that are hidden are doubted, and give no verdict", doubtful.masked),
    KnownAnswer("cheating", "an attack that cheats gains nothing and leaves no trace", doubtful.cheating),
    KnownAnswer("determinism", "one seed gives one result", exact.determinism),
    KnownAnswer("backdoored", "a planted backdoor is found, and only where it is", learned.backdoored),
    KnownAnswer("invertible", "templates that can be read back are read back", learned.invertible),
    KnownAnswer("accounting", "a privacy budget is the published one, and its noise is real", exact.accounting),
)


def chosen(names: Iterable[str]) -> tuple[KnownAnswer, ...]:
    """The known-answer tests of these names, in their own order; all without any name.

    Raises:
        RequestError: A name that none has.
    """
    wanted = {checks.one_of("known-answer test", name, [test.name for test in ALL]) for name in names}
    return tuple(test for test in ALL if not wanted or test.name in wanted)
