"""What each short code of doubt means, and what settles it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
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
        "non-finite-answers",
        "the model answers with NaN or infinities off the data; such answers count as wrong",
        "look for an overflow in the model; it may be the defence",
    ),
    Flag(
        "tiny-radius",
        "the radius is less than half of one grey level of the inputs' range",
        "give the radius in raw input units: 8 for images in [0, 255], 8/255 for images in [0, 1]",
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
        "broken-gradients",
        "many input gradients are not finite",
        "attack through a stand-in, with a scale-free loss, or without gradients",
        withholds=True,
    ),
    Flag(
        "misleading-gradients",
        "the loss does not change along its gradient as the gradient says, or climbing it leads astray",
        "attack through a stand-in or a smoothed gradient, or without gradients",
        withholds=True,
    ),
    Flag(
        "saturated-loss",
        "the logits lie so far apart that cross-entropy is flat in float32",
        "attack a loss that no scale hides (margin or dlr)",
        withholds=True,
    ),
    Flag(
        "probabilities",
        "the model answers with probabilities, undeclared, which hide gradients",
        'attack their logarithms: rs.wrap(model, output="probabilities"), or better the logits themselves',
        withholds=True,
    ),
    Flag(
        "one-step-better",
        "one gradient step broke samples that the iterated attack left standing",
        "take more or smaller steps, or attack through a stand-in: an iterated attack must be the stronger",
        withholds=True,
    ),
    Flag(
        "black-box-better",
        "a short search without gradients broke samples that the white-box attack left standing",
        "the gradients are masked: attack through a stand-in, or by queries",
        withholds=True,
    ),
    Flag(
        "huge-radius",
        "without a limit on the distance the attack did not bring accuracy down to chance",
        "the gradients are masked: attack through a stand-in, or by queries",
        withholds=True,
    ),
    Flag(
        "gradients-in-forward",
        "the model computes gradients while it answers, so its answer is an optimisation of its own",
        "differentiate through the whole optimisation, or through its result as a function of its input",
        withholds=True,
    ),
    Flag(
        "unconverged",
        "twice the steps broke clearly more samples",
        "take more steps until the number stays",
        withholds=True,
    ),
    Flag(
        "unexamined",
        "the standing checks could not be run, so nothing is known of masked gradients",
        "see escalation.error in the record",
        withholds=True,
    ),
    Flag(
        "short-of-radius",
        "steps times step size does not reach the radius",
        "take more or longer steps",
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
    Flag(
        "outdated",
        "it was measured before sanity checks and follow-up attacks examined such results as they do now",
        "run the suite again",
        withholds=True,
    ),
    Flag(
        "near-chance",
        "the clean accuracy cannot be told from guessing, so there is little that an attack could break",
        "see that the model is the one that is meant: inputs not normalised? weights not loaded? labels in another "
        "order?",
        withholds=True,
        concerns=(
            *("clean_accuracy", "precision_macro", "recall_macro", "f1_macro", "expected_calibration_error"),
            *("robust_accuracy", "attack_success_rate", "attack_success_rate_all", "robust_accuracy_own"),
            *("robust_accuracy_followed_up", "attack_success_rate_followed_up", "attack_success_rate_all_followed_up"),
            *("target_hit_rate", "target_hit_rate_followed_up", "distance_median", "queries_median"),
        ),
    ),
    Flag(
        "test-in-training",
        "some test inputs are in the training set as well, so they do not show what the model makes of new ones",
        "take them out of the test set, or out of the training set; the message says how many there are",
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
RESOLVED: Final = "resolved:"
KNOWN: Final = {flag.code: flag for flag in _ALL}


def describe(code: str) -> Flag:
    """The meaning of a code; one that is not known here stands for itself.

    A code behind `resolved:` was a doubt that follow-up attacks settled; it withholds nothing.
    """
    settled = code.removeprefix(RESOLVED)
    if settled == code:
        return KNOWN.get(code, Flag(code, ""))
    was = KNOWN.get(settled, Flag(settled, ""))
    return replace(was, code=code, meaning=f"settled by follow-up attacks: {was.meaning}", remedy="", withholds=False)


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
    """Whether a number under these doubts may be called the best of its column; codes that nobody knows withhold it."""
    return not any(describe(code).withholds or code.removeprefix(RESOLVED) not in KNOWN for code in codes)
