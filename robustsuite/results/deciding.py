"""One figure against one threshold: supported by the whole interval, contradicted by it, or neither."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from robustsuite.core import checks
from robustsuite.core.flags import describe
from robustsuite.core.gate import Gate
from robustsuite.core.intervals import interval, least_count
from robustsuite.core.metric import Metric
from robustsuite.core.suspicions import Effect, Suspicion

_FLATTERING: Final = Suspicion.that(Effect.FLATTERS)
_CHANCE: Final = 0.8  # of a run of the size that is advised to decide
_FOUR_OF_FIVE, _Z = 0.8416212335729143, 1.959963984540054  # 80 % and 97.5 % quantiles of the standard normal
_LARGEST: Final = 10_000_000  # samples beyond which "how many more" is no advice


class Outcome(enum.Enum):
    """What a measurement says of a threshold."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class GateFailure(AssertionError):  # noqa: N818  # pytest reports an AssertionError as a failure, not as an error
    """A gate that did not pass; the message says what was measured and what would settle it."""


GateFailure.__module__ = "robustsuite.results"  # as a test's summary names it


@dataclass(frozen=True)
class Verdict:
    """A gate's outcome and why.

    Args:
        outcome: One of three.
        message: The outcome in words, what was measured, and what would settle it where it is inconclusive.
        gate: What was asked, with defence and attack filled in; None where no gate was written down.
        metric: What was measured, over all repeats; None where nothing was.
        flags: Doubts about it.
        at: Of a verdict in one of several balls, which one.
    """

    outcome: Outcome
    message: str
    gate: Gate | None = None
    metric: Metric | None = None
    flags: tuple[str, ...] = ()
    at: str = ""

    @property
    def asked(self) -> str:
        """The gate as it is written, or a word where nobody wrote one."""
        return "gate" if self.gate is None else f"{self.gate}{f' at {self.at}' if self.at else ''}"

    @property
    def measured(self) -> str:
        """What was measured and what would settle it: the message without the outcome in front."""
        return self.message.removeprefix(f"{self.outcome.value}: ")


def decide(
    metric: Metric,
    at_least: float | None = None,
    *,
    at_most: float | None = None,
    name: str,
    flags: tuple[str, ...] = (),
    doubt: str = "",
    flattered: bool = False,
    lacking: str = "",
    advice: str | None = None,
) -> Verdict:
    """Hold a figure against a floor or a ceiling.

    Passes only where the whole interval is on the right side of the threshold (or on it), and fails where all of it is
    on the wrong one. Between the two it is inconclusive, and also where a flag says that the number cannot be believed.
    A doubt that can only flatter the model opens the interval on the worse side alone: a floor that is missed under
    such a flag is missed, and a ceiling on a model's robustness that holds even so holds.

    Args:
        metric: A figure; one of samples without an interval supports nothing, one that rests on no samples (epsilon,
            parameters) is exact and compares by value.
        at_least: The floor, for a rate in [0, 1].
        at_most: The ceiling; exactly one of the two is given.
        name: What the figure is called.
        flags: Doubts of its record; those that an interval already tells are passed over.
        doubt: Why the number cannot be believed, in a sentence, where the judge says so.
        flattered: Whether that doubt can only have flattered the model.
        lacking: What is missing of the measurement, in a sentence; nothing is decided without it.
        advice: What would settle it; None says how many more samples.

    Raises:
        RequestError: No threshold or two, or one outside [0, 1] for a rate.

    Example:
        >>> decide(Metric(0.9, 100, 0.83, 0.94), 0.5, name="robust_accuracy").outcome.value
        'passed'
        >>> decide(Metric(3.0, unit="nats", better="lower"), at_most=2.5, name="epsilon").outcome.value
        'failed'
    """
    gate = Gate(metric=name, at_least=at_least, at_most=at_most)
    if metric.unit == "rate" or not (metric.unit or metric.better):
        checks.real(gate.side, gate.bound, low=0.0, high=1.0)
    low, high = ends(metric)
    believed = (-math.inf, math.inf) if lacking else _believed(metric, low, high, flags, doubt, flattered)
    outcome = _compare(*believed, gate)
    asked = f"asked for {gate.side.replace('_', ' ')} {gate.bound:g}"
    seen = f"{name} {_figure(metric, low, high)}, {asked}"
    if outcome is not Outcome.INCONCLUSIVE:
        other = tuple(flag for flag in flags if flag == Suspicion.NEAR_CHANCE and outcome is Outcome.FAILED)
        told = f"; {_doubts(other, '')}" if other else ""  # what failed may not be the model that was meant
        return Verdict(outcome, f"{outcome.value}: {seen}{told}", None, metric, flags)
    grave = _grave(flags)
    if grave or doubt or lacking:
        why = "; ".join(part for part in (lacking, _doubts(grave, doubt)) if part)
    else:
        why = advice if advice is not None else _advice(metric, gate.bound)
    return Verdict(outcome, f"inconclusive: {seen}; {why}", None, metric, flags)


def ends(metric: Metric) -> tuple[float, float]:
    """What the figure may be in truth: its interval; the value itself where it rests on no samples; else anything."""
    if metric.low is not None and metric.high is not None:
        return metric.low, metric.high
    if exact(metric):
        return metric.value, metric.value
    return (0.0, 1.0) if metric.unit == "rate" else (-math.inf, math.inf)


def exact(metric: Metric) -> bool:
    """Whether the figure is no sample statistic: epsilon, parameters, a count."""
    return metric.low is None and metric.high is None and (metric.n == 0 or metric.unit == "count")


def _grave(flags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(flag for flag in flags if describe(flag).withholds)


def _believed(
    metric: Metric, low: float, high: float, flags: tuple[str, ...], doubt: str, flattered: bool
) -> tuple[float, float]:
    """The interval, opened on the sides on which the doubts leave the truth open."""
    grave = _grave(flags)
    if not grave and not doubt:
        return low, high
    one_sided = all(flag in _FLATTERING for flag in grave) and (bool(grave) or flattered)
    if one_sided and metric.better == "higher":
        return -math.inf, high
    if one_sided and metric.better == "lower":
        return low, math.inf
    return -math.inf, math.inf


def settled(metric: Metric, gate: Gate, flags: tuple[str, ...], doubt: str = "") -> bool:
    """Whether more samples of the same kind could not change the verdict: it is decided, or doubts keep it open."""
    low, high = ends(metric)
    plain = _compare(low, high, gate)
    if plain is not Outcome.INCONCLUSIVE:
        return True
    return _believed(metric, low, high, flags, doubt, False) == (-math.inf, math.inf)


def _compare(low: float, high: float, gate: Gate) -> Outcome:
    if gate.at_least is not None:
        right, wrong = low >= gate.at_least, high < gate.at_least
    else:
        right, wrong = high <= gate.bound, low > gate.bound
    return Outcome.PASSED if right else Outcome.FAILED if wrong else Outcome.INCONCLUSIVE


def _figure(metric: Metric, low: float, high: float) -> str:
    rate = metric.unit in ("rate", "rate difference")
    value, *span = (f"{x:.3f}" if rate else f"{x:.4g}" for x in (metric.value, low, high))
    if low == high:
        return f"{metric.value:,.0f}" if metric.unit == "count" else value
    return f"{value} [{', '.join(span)}]{f' on {metric.n} samples' if metric.n else ''}"


def _doubts(flags: tuple[str, ...], doubt: str) -> str:
    told = [f"flagged {code} ({describe(code).meaning or 'see the attack'})" for code in flags]
    remedies = [describe(code).remedy for code in flags if describe(code).remedy]
    said = doubt if not flags else ""
    return "; ".join(part for part in (*told, said, f"to settle it: {', '.join(remedies)}" if remedies else "") if part)


def _advice(metric: Metric, threshold: float) -> str:
    """How many samples would settle it, if the true value is near the figure."""
    if metric.low is None or metric.high is None:
        return "it has no interval, so that nothing supports a verdict; repeats of the training give it one"
    return more_samples(metric.n, _needed(metric, threshold))


def more_samples(judged: int, needed: int | None, *, where: str = "") -> str:
    """The advice in words.

    Args:
        judged: Samples judged so far.
        needed: What `samples_needed` says; None needs more than anybody has.
        where: Of what these are the samples, where not of all that was judged.
    """
    if needed is None:
        return "the figure is so close to the threshold that no practical number of samples settles it"
    return (
        f"about {needed - judged} more samples{where} would probably settle it: if the true value is near this figure, "
        f"a run on {needed} samples{where} decides with 80 % probability"
    )


def _needed(metric: Metric, threshold: float) -> int | None:
    if metric.unit in ("rate", ""):
        return samples_needed(metric.value, threshold, more_than=metric.n)
    wide, apart = (ends(metric)[1] - ends(metric)[0]) / 2, abs(metric.value - threshold)
    # The figure of a fresh run scatters too: by `wide / _Z`, so it must lie further off for four in five to decide.
    many = metric.n * (wide * (1 + _FOUR_OF_FIVE / _Z) / apart) ** 2 if apart > 0 else math.inf
    return max(metric.n + 1, math.ceil(many)) if many <= _LARGEST else None


def samples_needed(
    rate: float,
    threshold: float,
    *,
    more_than: int = 0,
    bounds: Callable[[int, int], tuple[float, float]] = interval,
) -> int | None:
    """How many samples a fresh run needs to decide with a chance of at least 80 %, should the true rate be `rate`.

    Its own rate scatters about the true one, so an interval about `rate` that no longer holds the threshold decides
    only every other run: counted are the outcomes whose interval is on the right side, by the binomial distribution.

    Args:
        rate: The rate, in [0, 1].
        threshold: The floor or the ceiling, in [0, 1].
        more_than: How many are not enough.
        bounds: Successes and samples to the ends of the interval that a run of so many samples has in the end; by
            default that of 95 %. Both ends must grow with the successes.

    Returns:
        The number, about the least; None beyond ten million.

    Example:
        >>> samples_needed(1.0, 0.9), samples_needed(0.6, 0.55)
        (36, 769)
    """

    def settles(n: int) -> bool:
        return _deciding(rate, threshold, n, bounds) >= _CHANCE

    return least_count(settles, more_than, _LARGEST)


def _deciding(rate: float, threshold: float, n: int, bounds: Callable[[int, int], tuple[float, float]]) -> float:
    """Chance that the interval of `n` samples lies on the side of the threshold on which the rate is."""
    from scipy.special import bdtr, bdtrc

    above = rate >= threshold

    def decides(successes: int) -> bool:
        low, high = bounds(successes, n)
        return low >= threshold if above else high < threshold

    first, last = (-1, n) if above else (0, n + 1)  # the successes between which it turns, by bisection
    if not decides(n if above else 0):
        return 0.0
    while first + 1 < last:
        middle = (first + last) // 2
        first, last = (first, middle) if decides(middle) == above else (middle, last)
    if above:
        return float(bdtrc(last - 1, n, rate)) if last > 0 else 1.0
    return float(bdtr(first, n, rate))
