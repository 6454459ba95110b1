"""Old against new on the same samples: exact tests, intervals of differences, and many tests at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core import checks
from robustsuite.core.intervals import least_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Z: Final = 1.959963984540054  # 97.5 % quantile of the standard normal
_FOUR_OF_FIVE: Final = 0.8416212335729143  # 80 % quantile of the standard normal
SHARES: Final = (0.2, 0.8)  # of the error: for trainings as pairs, and as independent
_LEAST: Final = 1e-12  # p-values below say no more
_MOST_REPEATS: Final = 1000
SIDES: Final = ("both", "worse", "better")


def mcnemar(worse: int, better: int, *, side: str = "both") -> float:
    """Exact p-value of McNemar's test (Psychometrika 1947): of the samples that flipped, do as many flip either way?

    Samples that did not flip say nothing about the difference and do not enter.

    Args:
        worse: Samples that were right and are wrong.
        better: Samples that were wrong and are right.
        side: `both`; `worse` for the alternative that more flip to the worse, `better` for the opposite.

    Returns:
        The p-value, in (0, 1]; 1 where nothing flipped.

    Raises:
        RequestError: A negative count, or another side.

    Example:
        >>> mcnemar(0, 6), mcnemar(6, 0, side="worse")
        (0.03125, 0.015625)
    """
    from scipy.special import bdtr

    checks.integer("worse", worse, low=0)
    checks.integer("better", better, low=0)
    checks.one_of("side", side, SIDES)
    total = worse + better
    fewer = {"both": min(worse, better), "worse": better, "better": worse}[side]
    tail = float(bdtr(fewer, total, 0.5)) if total else 1.0
    return min(1.0, 2 * tail if side == "both" else tail)


def sign_flip(differences: Sequence[int]) -> float:
    """Exact two-sided p-value of the permutation test that swaps old and new within each sample.

    Each sample's difference is summed over repeats first, so that a sample counts once however often it was judged.
    With one repeat, and differences of -1, 0 and 1, this is McNemar's exact test. The whole distribution is worked out
    by convolution; nothing is drawn.

    Args:
        differences: One small integer per sample.

    Returns:
        The p-value, in (0, 1]; 1 where nothing differs.

    References:
        Fisher, The Design of Experiments, 1935, section 21; Pitman, JRSS Supplement 1937.

    Example:
        >>> round(sign_flip([1, 1, 1, 1, 1, 1, 0]), 6), sign_flip([2, -1])
        (0.03125, 1.0)
    """
    import numpy as np
    from scipy.stats import binom

    sizes = np.abs(np.asarray(differences, dtype=np.int64))
    observed = abs(int(np.sum(differences)))
    # Index i of `mass` is the chance that the sum of the sizes with a minus sign is i.
    mass = np.ones(1)
    for size in np.unique(sizes[sizes > 0]):
        count = int((sizes == size).sum())
        part = np.zeros(count * int(size) + 1)
        part[:: int(size)] = binom.pmf(np.arange(count + 1), count, 0.5)
        mass = np.convolve(mass, part)
    below = (int(sizes.sum()) - observed) // 2
    return min(1.0, 2 * float(mass[: below + 1].sum()))


def paired_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """95 % score interval of the difference of two rates on the same samples (Tango, Statistics in Medicine 1998).

    It inverts the score test of each difference, so it agrees with McNemar's (asymptotic) test about 0, stays within
    [-1, 1], and has a width where nothing flipped, which the normal interval and Newcombe's square-and-add have not.
    It is no exact one: where nearly all of five or six samples flip it covers 92 %, and from 50 samples on at least
    93.6 % (`benchmarks/COVERAGE.md`).

    Args:
        gained: Samples on which only the new outcome holds.
        lost: Samples on which only the old outcome holds.
        n: Number of samples, flipped or not; 0 gives [-1, 1].

    Returns:
        Ends for the new rate less the old one.

    Raises:
        RequestError: More flips than samples.

    Example:
        >>> low, high = paired_interval(0, 0, 100)
        >>> round(low, 4), round(high, 4)
        (-0.037, 0.037)
    """
    checks.integer("gained", gained, low=0)
    checks.integer("lost", lost, low=0)
    checks.integer("n", n, low=gained + lost)
    if n == 0:
        return -1.0, 1.0
    return -_upper(lost, gained, n), _upper(gained, lost, n)


def _upper(gained: int, lost: int, n: int) -> float:
    """The largest difference that a score test does not reject, by bisection."""
    inside, outside = (gained - lost) / n, 1.0
    while outside - inside > 1e-10:
        middle = (inside + outside) / 2
        if n * middle - (gained - lost) <= _Z * _deviation(gained, lost, n, middle):
            inside = middle
        else:
            outside = middle
    return (inside + outside) / 2


def _deviation(gained: int, lost: int, n: int, difference: float) -> float:
    """Standard deviation of `gained - lost` under the likeliest model that has this difference."""
    linear = (2 * n - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    only_old = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
    return math.sqrt(max(0.0, n * (2 * only_old + difference * (1 - difference))))


@dataclass(frozen=True)
class Spread:
    """What a mean difference over trainings and samples may be off by.

    Args:
        between: Variance that the trainings give it.
        freedom: Degrees of freedom of that.
        within: Variance that the samples give it beside.
        samples: Degrees of freedom of that.
        own: Part of `between` that is there even if trainings do not differ: what each does to single samples.
    """

    between: float
    freedom: float
    within: float
    samples: int
    own: float = 0.0

    def half(self, level: float) -> float:
        """Half the width of the interval that errs with a chance of at most `level`.

        Each variance gets its own Student quantile, and the squares add: at least as wide as asked for, whatever the
        two variances are (Banerjee, Sankhya 1961); adding the variances first is not, for 2 or 3 trainings that happen
        to agree.
        """
        from scipy.special import stdtrit

        trainings, samples = stdtrit(self.freedom, level / 2), stdtrit(self.samples, level / 2)
        return math.hypot(float(trainings) * math.sqrt(self.between), float(samples) * math.sqrt(self.within))

    def p(self, value: float) -> float:
        """The least level at which the interval about `value` leaves 0 out."""
        low, high = math.log(_LEAST), 0.0
        if self.half(_LEAST) < abs(value):
            return _LEAST
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (low, middle) if self.half(math.exp(middle)) < abs(value) else (middle, high)
        return math.exp(high)

    def over(self, trainings: int, before: int) -> Spread:
        """What it would be with so many trainings in place of `before`."""
        ratio, freedom = trainings / before, self.freedom * (trainings - 1) / (before - 1)
        return replace(self, between=self.between / ratio, own=self.own / ratio, freedom=freedom)


@dataclass(frozen=True)
class Difference:
    """A mean difference over trainings and samples.

    Args:
        value: New less old.
        low: Lower end of its 95 % interval, over samples and trainings.
        high: Upper end.
        p: Two-sided p-value of no difference between the two ways of training, over samples and trainings.
        p_weights: Two-sided p-value of no difference between these trained models, over samples alone.
        spreads: With trainings taken as pairs, and as independent.
        trainings: How many there were on either side.
    """

    value: float
    low: float
    high: float
    p: float
    p_weights: float
    spreads: tuple[Spread, Spread]
    trainings: int


def crossed(old: NDArray[Any], new: NDArray[Any]) -> Difference:
    """Compare rates where the same samples were judged in several independent trainings.

    A sample that one release gets right it tends to get right in every training, so flips must not be pooled:
    `p_weights` is `sign_flip`'s, in which a sample counts once. It speaks of these trained models. The interval and `p`
    speak of the training as well (`Spread`): what trainings differ by, and what samples add to it, as in studies where
    several readers judge the same cases (Hillis, Statistics in Medicine 2007). What one training does to one sample is
    seen in both variances and counted once. `p` is never below `p_weights`.

    Trainings are taken as pairs (one seed, one repeat), at a fifth of the level, and as independent (Welch's degrees of
    freedom), at the rest, and the shorter interval stands: releases that share their trained models gain from the
    first, which has little to lose, those that trained anew from the second. Two pseudo-samples, one for either side,
    keep a width where nothing flipped (Bonett and Price, Statistics in Medicine 2012). How often it errs, and what it
    finds, stands in `benchmarks/COMPARE.md`.

    Args:
        old: Outcomes `(R, n)`, bool, for at least 2 trainings and 1 sample.
        new: Outcomes of the same samples in the same order.

    Raises:
        RequestError: Fewer than 2 trainings, or no sample.
    """
    import numpy as np

    differences = new.astype(np.int64) - old.astype(np.int64)
    trainings, n = differences.shape
    checks.integer("trainings", trainings, low=2)
    checks.integer("n", n, low=1)
    value = float(differences.mean())
    per_sample = np.append(differences.mean(0), (1.0, -1.0))
    samples = float(per_sample.var(ddof=1)) / (n + 2)
    spreads = (_spread([differences], samples), _spread([old, new], samples))
    half = _half(spreads, 0.05)
    p_weights = sign_flip(differences.sum(0).tolist())
    either = min(spread.p(value) / share for spread, share in zip(spreads, SHARES, strict=True))
    p = max(p_weights, min(1.0, either))
    return Difference(value, max(-1.0, value - half), min(1.0, value + half), p, p_weights, spreads, trainings)


def _half(spreads: Sequence[Spread], level: float) -> float:
    return min(spread.half(level * share) for spread, share in zip(spreads, SHARES, strict=True))


def _spread(sides: Sequence[NDArray[Any]], samples: float) -> Spread:
    """Components of variance of a difference of means over the given independent sides, each `(R, n)`."""
    trainings, n = sides[0].shape
    each, own = [], 0.0
    for side in sides:
        rates, shares = side.mean(1), side.mean(0)
        each.append(float(rates.var(ddof=1)) / trainings)
        rest = side - rates[:, None] - shares + side.mean()
        own += float((rest**2).sum()) / ((trainings - 1) * max(1, n - 1)) / (trainings * n)
    between, freedom = sum(each), float(trainings - 1)
    if between > 0:
        freedom *= between**2 / sum(variance**2 for variance in each)
    # Trainings that agree by chance (rates are whole samples) cannot scatter less than what each does to single ones.
    return Spread(max(between, own), freedom, max(0.0, samples - own), n + 1, own)


def repeats_needed(found: Difference, level: float, wanted: float | None = None) -> int | None:
    """How many repeats it takes to call a difference in four of five comparisons, should the spreads stay.

    Args:
        found: What fewer repeats gave.
        level: What the p-value has to fall below, in (0, 1): that of the whole table over its tests, by Holm's method.
        wanted: The difference; None for the one that was found.

    Returns:
        The number, at least one more than there were; None beyond a thousand, or where the samples are too few.
    """
    asked = abs(found.value if wanted is None else wanted)

    def calls(repeats: int) -> bool:
        for spread, share in zip(found.spreads, SHARES, strict=True):
            later = spread.over(repeats, found.trainings)
            chance = _FOUR_OF_FIVE * math.sqrt(later.between + later.within)
            if later.half(level * share) + chance <= asked:
                return True
        return False

    return least_count(calls, found.trainings, _MOST_REPEATS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that rejecting those below alpha errs anywhere with a chance of at most alpha.

    Valid whatever the dependence between the tests (Holm, Scandinavian Journal of Statistics 1979).

    Args:
        p_values: Each in [0, 1].

    Returns:
        Adjusted values in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    for p in p_values:
        checks.real("p", p, low=0.0, high=1.0)
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted
