"""What each short code of doubt means, and what settles it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Flag:
    """One code of doubt.

    Args:
        code: As it stands in records.
        meaning: One line: what was seen.
        remedy: One line: what settles it.
        withholds: Whether a number under this doubt may not be called the best of its column.
        concerns: Metrics that the doubt is about; empty for every figure of the record.
    """

    code: str
    meaning: str
    remedy: str = ""
    withholds: bool = False
    concerns: tuple[str, ...] = ()


_ALL: Final = (
    Flag(
        "lost-adversarial",
        "the attack met adversarial inputs that it did not hand in",
        "mend the attack so that it returns the worst input it saw",
        withholds=True,
    ),
    Flag(
        "over-budget",
        "some adversarial inputs lay outside the ball or its bounds and were not counted",
        "project onto the ball and the bounds after the last step",
        withholds=True,
    ),
    Flag(
        "nondeterministic",
        "the model answers differently when asked twice",
        "judge it over several draws (draws: 10) and attack its expectation",
        withholds=True,
    ),
    Flag(
        "zero-gradients",
        "many input gradients are exactly zero, so gradient attacks see nothing",
        "add an attack with a scale-free loss or one without gradients",
        withholds=True,
    ),
    Flag(
        "not-adaptive",
        "the attack did not differentiate through the whole defence",
        "attack through a surrogate of the missing part, or by queries",
        withholds=True,
    ),
    Flag(
        "catastrophic-overfitting",
        "during training, robustness to iterated attacks collapsed while robustness to one step rose",
        "train against more steps, or with a smaller step",
    ),
    Flag(
        "epsilon-not-valid",
        "the accounting of the privacy guarantee does not hold for this training",
        "use Poisson sampling at the accounted rate, and fit nothing else on private data",
        withholds=True,
        concerns=("epsilon", "delta"),
    ),
    Flag(
        "non-finite",
        "the attack handed in NaN or infinite inputs, which were not counted",
        "look for overflow or a division by zero in the attack or the model",
        withholds=True,
    ),
    Flag("few-samples", "fewer than 100 samples were judged, so the interval is wide", "judge more samples"),
    Flag(
        "evaluator-weak",
        "the evaluator of the reconstructions is often wrong on real samples itself",
        "name a stronger evaluator, or give it more training data",
        withholds=True,
    ),
    Flag(
        "missing-repeats",
        "some repeats have no result; the mean is over the others",
        "run the suite again to finish it",
    ),
)
KNOWN: Final = {flag.code: flag for flag in _ALL}


def describe(code: str) -> Flag:
    """The meaning of a code; one that is not known here stands for itself."""
    return KNOWN.get(code, Flag(code, ""))


def concerning(codes: Iterable[str], metric: str, beside: Collection[str] = ()) -> tuple[str, ...]:
    """Those codes that cast doubt on a metric.

    Args:
        codes: Flags of its record.
        metric: Its name.
        beside: All metrics of the record; a doubt about a metric that is not among them falls on all the others.
    """
    kept = []
    for code in dict.fromkeys(codes):
        about = describe(code).concerns
        if metric in about or not set(about) & set(beside):
            kept.append(code)
    return tuple(kept)


def believable(codes: Iterable[str]) -> bool:
    """Whether a number under these doubts may be called the best of its column."""
    return not any(describe(code).withholds for code in codes)
