"""Whether a model does better than somebody who does not look at the input."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from robustsuite.core.intervals import interval
from robustsuite.core.suspicions import Suspicion

_OTHERS: Final = 5  # of which a model halfway between chance and perfect gets none in one case of 32


def doubt_chance(right: Tensor, y: Tensor, classes: int) -> tuple[str, ...]:
    """The flag `near-chance` where the 95 % interval of the clean accuracy does not lie above chance; else nothing.

    Chance is what the better of two guessers gets who see no input: 1 / classes, or the share of the most frequent
    class among these samples. Nothing is said of samples so few, or so much of one class, that a model halfway between
    chance and perfect could not be told from chance either, but where a model gets right what is of the most frequent
    class and nothing else, of five samples or more.

    Args:
        right: Which samples the model gets right; bool `(n,)`.
        y: Their labels `(n,)`.
        classes: How many classes there are.
    """
    n = len(y)
    if n == 0:
        return ()
    counts = y.bincount()
    if n - int(counts.max()) >= _OTHERS and bool((right == (y == counts.argmax())).all()):
        return (Suspicion.NEAR_CHANCE,)
    chance = max(1 / classes, int(counts.max()) / n)
    halfway = int((1 + chance) / 2 * n)
    telling = interval(halfway, n)[0] > chance
    return (Suspicion.NEAR_CHANCE,) if telling and interval(int(right.sum()), n)[0] <= chance else ()
