"""The codes of suspicion: what was seen, what settles it, what it starts, and what it does to a verdict."""

from __future__ import annotations

import enum
from typing import Final, Self

RESOLVED: Final = "resolved:"
"""Stands before the code of a suspicion that follow-up attacks settled."""

_OF_ACCURACY: Final = (
    *("clean_accuracy", "precision_macro", "recall_macro", "f1_macro", "expected_calibration_error"),
    *("robust_accuracy", "attack_success_rate", "attack_success_rate_all", "robust_accuracy_own"),
    *("robust_accuracy_followed_up", "attack_success_rate_followed_up", "attack_success_rate_all_followed_up"),
    *("target_hit_rate", "target_hit_rate_followed_up", "distance_median", "queries_median"),
)


class Effect(enum.Flag):
    """What a suspicion does."""

    WITHHOLDS = enum.auto()
    """A number under it may not be called the best of its column, and decides no gate."""
    STARTS = enum.auto()
    """It starts the follow-up attacks that resolve it."""
    MILD = enum.auto()
    """It is about the attack, or its loss, and not about the gradient."""
    BLURS = enum.auto()
    """The gradient may be rough: follow-up attacks also try one that is averaged over noise."""
    FLATTERS = enum.auto()
    """Under it a model can only look better than it is: a floor that it misses even so, it misses."""


_NOTHING: Final = Effect(0)


class Suspicion(enum.StrEnum):
    """Why a number may not be what it seems; a member is the code that stands in records.

    Trainings of a stranger's defence may raise codes of their own beside these.

    Attributes:
        meaning: One line: what was seen.
        remedy: One line: what settles it.
        effects: What it does.
        concerns: Metrics that it is about; empty for every figure of the record.
    """

    meaning: str
    remedy: str
    effects: Effect
    concerns: tuple[str, ...]

    def __new__(
        cls, code: str, meaning: str, remedy: str, effects: Effect = _NOTHING, concerns: tuple[str, ...] = ()
    ) -> Self:
        """A member, which is its code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning, member.remedy, member.effects, member.concerns = meaning, remedy, effects, concerns
        return member

    FOUND_NOT_RETURNED = (
        "found-not-returned",
        "the attack found adversarial inputs and did not return them",
        "mend the attack so that it returns the worst input that it found",
        Effect.WITHHOLDS | Effect.FLATTERS,
    )
    OVER_BUDGET = (
        "over-budget",
        "some adversarial inputs lay outside the ball or its bounds and were not counted",
        "project onto the ball and the bounds after the last step",
        Effect.WITHHOLDS | Effect.FLATTERS,
    )
    NON_FINITE_ANSWERS = (
        "non-finite-answers",
        "the model answers with NaN or infinities on perturbed inputs; such answers count as wrong",
        "look for an overflow in the model; it may be the defence",
    )
    RAISES_ON_PERTURBED = (
        "raises-on-perturbed",
        "the model raises on perturbed inputs, though it answers the clean ones; what it does not answer is not robust",
        "attack it on inputs that it answers, or mend the model so that it answers all of them",
        Effect.WITHHOLDS | Effect.FLATTERS,
    )
    TINY_RADIUS = (
        "tiny-radius",
        "the radius is less than half of one grey level of the inputs' range",
        "give the radius in raw input units: 8 for images in [0, 255], 8/255 for images in [0, 1]",
    )
    CHANGED_PROCESS = (
        "changed-process",
        "something changed the process under this cell; what could be put back was put back afterwards",
        "mend the plug-in that the message is about, and play the cell again",
        Effect.WITHHOLDS,
    )
    NONDETERMINISTIC = (
        "nondeterministic",
        "the model answers differently when queried twice",
        "judge it over several draws (draws: 10) and attack its expectation",
        Effect.WITHHOLDS | Effect.STARTS,
    )
    ZERO_GRADIENTS = (
        "zero-gradients",
        "many input gradients are exactly zero, so gradient attacks cannot improve on the clean input",
        "add an attack with a scale-free loss (margin, dlr) or a black-box attack",
        Effect.WITHHOLDS | Effect.STARTS | Effect.BLURS | Effect.FLATTERS,
    )
    BROKEN_GRADIENTS = (
        "broken-gradients",
        "many input gradients are not finite",
        "attack through a differentiable surrogate, with a scale-free loss (margin, dlr), or without gradients",
        Effect.WITHHOLDS | Effect.STARTS,
    )
    MISLEADING_GRADIENTS = (
        "misleading-gradients",
        "a step along the gradient does not change the loss as the gradient predicts (masked or shattered gradients)",
        "attack through a differentiable surrogate (BPDA), a smoothed gradient, or without gradients",
        Effect.WITHHOLDS | Effect.STARTS | Effect.BLURS,
    )
    SATURATED_LOSS = (
        "saturated-loss",
        "the logits lie so far apart that cross-entropy is flat in float32",
        "attack a loss that no scale hides (margin or dlr)",
        Effect.WITHHOLDS | Effect.STARTS | Effect.MILD,
    )
    PROBABILITIES = (
        "probabilities",
        "the model answers with probabilities, undeclared, which hide gradients",
        'attack their logarithms: rs.wrap(model, output="probabilities"), or better the logits themselves',
        Effect.WITHHOLDS | Effect.STARTS,
    )
    ONE_STEP_BETTER = (
        "one-step-better",
        "one gradient step (FGSM) broke samples that the iterated attack did not break",
        "take more or smaller steps, or attack through a differentiable surrogate: iterating must not weaken an attack",
        Effect.WITHHOLDS | Effect.STARTS | Effect.MILD,
    )
    BLACK_BOX_BETTER = (
        "black-box-better",
        "a short search without gradients broke samples that the white-box attack did not break",
        "the gradients are masked: attack through a differentiable surrogate (BPDA), or by queries",
        Effect.WITHHOLDS | Effect.STARTS | Effect.BLURS,
    )
    UNBOUNDED_ATTACK_FAILS = (
        "unbounded-attack-fails",
        "even without a limit on the perturbation the attack did not bring accuracy down to chance",
        "the gradients are masked: attack through a differentiable surrogate (BPDA), or by queries",
        Effect.WITHHOLDS | Effect.STARTS | Effect.BLURS,
    )
    JUMP_AT_BOUNDARY = (
        "jump-at-boundary",
        "scores jump on the way to another class, so that their gradient need not lead there",
        "attack through a surrogate whose boundary is the model's, or by labels",
        Effect.WITHHOLDS | Effect.STARTS | Effect.BLURS | Effect.FLATTERS,
    )
    JUMP_AT_CLEAN = (
        "jump-at-clean-inputs",
        "clean inputs get another answer than inputs close to them, at once and not little by little",
        "attack within what clean inputs share (values, zeros, constant coordinates) and where the others are",
        Effect.WITHHOLDS | Effect.STARTS | Effect.FLATTERS,
    )
    DEPENDS_ON_BATCH = (
        "depends-on-batch",
        "an input gets another answer alone than in a batch",
        "attack one input at a time (batch_size: 1)",
        Effect.WITHHOLDS | Effect.STARTS | Effect.FLATTERS,
    )
    DEPENDS_ON_AUTOGRAD = (
        "depends-on-autograd",
        "an input gets another answer where gradients are asked for",
        "attack what answers without gradients: through a surrogate, or by queries",
        Effect.WITHHOLDS | Effect.STARTS | Effect.FLATTERS,
    )
    DEPENDS_ON_MODE = (
        "depends-on-mode",
        "the same numbers get another answer in inference mode, or in another dtype",
        "make the answer a function of the numbers alone",
        Effect.WITHHOLDS,
    )
    DEPENDS_ON_HISTORY = (
        "depends-on-history",
        "a copy of the model that was asked nothing before answers otherwise",
        "make the answer a function of the input alone, or evaluate the model in the state in which it is deployed",
        Effect.WITHHOLDS,
    )
    GRADIENTS_IN_FORWARD = (
        "gradients-in-forward",
        "the model computes gradients while it answers, so its answer is an optimisation of its own",
        "differentiate through the whole optimisation, or through its result as a function of its input",
        Effect.WITHHOLDS | Effect.STARTS,
    )
    UNCONVERGED = (
        "unconverged",
        "twice the steps broke clearly more samples",
        "take more steps until the number stays",
        Effect.WITHHOLDS | Effect.STARTS | Effect.MILD,
    )
    UNEXAMINED = (
        "unexamined",
        "the sanity checks could not be run, so nothing is known of masked gradients",
        "see `review.error` in the record",
        Effect.WITHHOLDS,
    )
    SHORT_OF_RADIUS = (
        "short-of-radius",
        "steps times step size does not reach the radius",
        "take more or longer steps",
    )
    NOT_ADAPTIVE = (
        "not-adaptive",
        "the attack did not differentiate through the whole defence, so its result is only an upper bound",
        "attack through a differentiable surrogate of the missing part, or by queries",
        Effect.WITHHOLDS | Effect.STARTS | Effect.FLATTERS,
    )
    LOW_POWER = (
        "low-power",
        "the evaluation did not find adversarial examples that were planted, so it misses others too",
        "attack through a differentiable surrogate of the defence, or without gradients, until those are found",
        Effect.WITHHOLDS | Effect.FLATTERS,
    )
    CATASTROPHIC_OVERFITTING = (
        "catastrophic-overfitting",
        "during training, robustness to iterated attacks collapsed while robustness to one step rose",
        "train against more steps, or with a smaller step",
    )
    UNMONITORED = (
        "unmonitored",
        "adversarial training held nothing out, so nobody looked whether robustness collapsed or fell off at the end",
        "hold out a share of the training set (validation: 0.1)",
    )
    EPSILON_NOT_VALID = (
        "epsilon-not-valid",
        "the accounting of the privacy guarantee does not hold for this training",
        "use Poisson sampling at the accounted rate, and fit nothing else on private data",
        Effect.WITHHOLDS,
        ("epsilon", "delta"),
    )
    NON_FINITE = (
        "non-finite",
        "the attack returned NaN or infinite inputs, which were not counted",
        "look for overflow or a division by zero in the attack or the model",
        Effect.WITHHOLDS | Effect.FLATTERS,
    )
    OUTDATED = (
        "outdated",
        "it was measured by an older version, whose sanity checks and follow-up attacks were weaker",
        "run the suite again",
        Effect.WITHHOLDS,
    )
    NEAR_CHANCE = (
        "near-chance",
        "the clean accuracy is no better than guessing, so there is little that an attack could break",
        "check that it is the right model: inputs not normalised? weights not loaded? labels in another order?",
        Effect.WITHHOLDS | Effect.FLATTERS,
        _OF_ACCURACY,
    )
    TEST_IN_TRAINING = (
        "test-in-training",
        "some test inputs are in the training set as well, so they do not measure generalisation",
        "take them out of the test set, or out of the training set; the message says how many there are",
    )
    FEW_SAMPLES = (
        "few-samples",
        "fewer than 100 samples were judged, so the interval is wide",
        "judge more samples",
    )
    EVALUATOR_WEAK = (
        "evaluator-weak",
        "the evaluator that judges the reconstructions is often wrong on real samples itself",
        "name a stronger evaluator, or give it more training data",
        Effect.WITHHOLDS,
    )
    MISSING_REPEATS = (
        "missing-repeats",
        "some repeats have no result; the mean is over the others",
        "run the suite again to finish it",
    )

    @classmethod
    def of(cls, code: str) -> Suspicion | None:
        """The suspicion of this code; None for `resolved:` ones and for a stranger's.

        Example:
            >>> Suspicion.of("zero-gradients") is Suspicion.ZERO_GRADIENTS, Suspicion.of("resolved:zero-gradients")
            (True, None)
        """
        return next((known for known in cls if known.value == code), None)

    @classmethod
    def that(cls, effect: Effect) -> frozenset[Suspicion]:
        """All that have this effect."""
        return frozenset(suspicion for suspicion in cls if effect in suspicion.effects)
