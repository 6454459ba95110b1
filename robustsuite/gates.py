"""Gates with three outcomes: the interval supports the threshold, contradicts it, or cannot tell."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustsuite import checks
from robustsuite.errors import RobustsuiteError
from robustsuite.protocol import Metric
from robustsuite.statistics import wilson

if TYPE_CHECKING:
    from robustsuite.api import AttackLike
    from robustsuite.benchmark.records import Record
    from robustsuite.threat import Ball

_TOLD_BY_INTERVAL = ("few-samples",)  # a doubt that the interval already holds
_LARGEST = 10_000_000  # samples beyond which "how many more" is no advice


class Outcome(enum.Enum):
    """What a measurement says of a threshold."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class GateFailure(AssertionError):  # noqa: N818  # pytest reports an AssertionError as a failure, not as an error
    """A gate that did not pass; the message says what was measured and what would settle it."""


@dataclass(frozen=True)
class Verdict:
    """A gate's outcome and why.

    Args:
        outcome: One of three.
        message: What was measured, and what would settle it where it is inconclusive.
    """

    outcome: Outcome
    message: str


def decide(metric: Metric, at_least: float, *, name: str, flags: tuple[str, ...] = (), doubt: str = "") -> Verdict:
    """Hold a rate against a floor.

    Passes only where the whole interval is at or above the floor, fails where all of it is below, and is inconclusive
    between, or where a flag says that the number cannot be believed.

    Args:
        metric: A rate with an interval.
        at_least: The floor, in [0, 1].
        name: What the rate is called.
        flags: Doubts that withhold a verdict.
        doubt: Why the number cannot be believed, in a sentence.

    Raises:
        RequestError: A floor outside [0, 1].
    """
    checks.real("at_least", at_least, low=0.0, high=1.0)
    low = 0.0 if metric.low is None else metric.low
    high = 1.0 if metric.high is None else metric.high
    seen = f"{name} {metric.value:.3f} [{low:.3f}, {high:.3f}] on {metric.n} samples, asked for at least {at_least:g}"
    if high < at_least:
        return Verdict(Outcome.FAILED, f"failed: {seen}")
    if flags:
        why = f" ({doubt})" if doubt else ""
        return Verdict(Outcome.INCONCLUSIVE, f"inconclusive: {seen}, but flagged {', '.join(flags)}{why}")
    if low >= at_least:
        return Verdict(Outcome.PASSED, f"passed: {seen}")
    return Verdict(Outcome.INCONCLUSIVE, f"inconclusive: {seen}; {_advice(metric, at_least)}")


def _advice(metric: Metric, floor: float) -> str:
    """How many samples would settle it, should the rate stay what it is."""
    needed = samples_needed(metric.value, floor)
    if needed is None:
        return "the rate is so close to the floor that no number of samples within reach settles it"
    return f"about {max(needed - metric.n, 1)} more samples would settle it, should the rate stay what it is"


def samples_needed(rate: float, floor: float) -> int | None:
    """The least n at which the Wilson interval of `rate` no longer holds `floor`; None beyond ten million."""

    def settled(n: int) -> bool:
        low, high = wilson(round(rate * n), n)
        return low >= floor or high < floor

    high = 1
    while not settled(high):
        high *= 2
        if high > _LARGEST:
            return None
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high


class Robustness:
    """What a test holds: gates that measure, judge, and write down what they saw."""

    def __init__(
        self,
        name: str,
        *,
        samples: int | None = None,
        folder: str | None = None,
        record: Callable[[str, Any], None] | None = None,
    ) -> None:
        if samples is not None:
            checks.integer("--robustsuite-samples", samples, low=1)
        self._name, self._samples, self._folder, self._record = name, samples, folder, record
        self._count = 0

    def assert_robust(
        self,
        model: Any,
        data: Any,
        *,
        attack: AttackLike = "pgd",
        ball: Ball | tuple[str, float | str],
        at_least: float,
        seed: int = 0,
        classes: int | None = None,
    ) -> Verdict:
        """Require a robust accuracy of at least `at_least` under an attack.

        Args:
            model: From raw inputs to logits.
            data: `(x, y)`, a `Dataset` or a `DataLoader`.
            attack: A name, an expression such as `"pgd(steps=50)"`, or an attack made by `rs.attack`.
            ball: `(norm, radius)` or a `Ball`.
            at_least: The floor of the robust accuracy, in [0, 1].
            seed: Keys every random draw.
            classes: Number of classes, by default what the logits say.

        Returns:
            The verdict, which passed.

        Raises:
            GateFailure: The interval contradicts the floor, or cannot decide.
        """
        from robustsuite.api import evaluate
        from robustsuite.data.coerce import to_samples
        from robustsuite.threat import Ball as _Ball

        checks.real("at_least", at_least, low=0.0, high=1.0)
        threat = ball if isinstance(ball, _Ball) else _Ball(*ball)  # type: ignore[arg-type]  # Ball reads "8/255" itself
        samples = to_samples(data, classes=classes, bounds=tuple(getattr(model, "bounds", (0.0, 1.0))))
        if self._samples is not None:
            samples = samples.take(slice(0, self._samples))
        report = evaluate(model, samples, [attack], threat, seed=seed, classes=classes)
        found = report.records[-1]
        where = self._write(report)
        if found.status == "error":
            raise RobustsuiteError(f"the attack {found.attack!r} raised:\n{found.message}")
        metric = Metric(**found.metrics["robust_accuracy"])
        flags = tuple(flag for flag in found.flags if flag not in _TOLD_BY_INTERVAL)
        verdict = decide(metric, at_least, name="robust_accuracy", flags=flags, doubt=found.message)
        return self._conclude(found, verdict, where)

    def _write(self, report: Any) -> Path | None:
        if self._folder is None:
            return None
        self._count += 1
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", self._name).strip("-.") or "gate"
        folder = Path(self._folder) / (plain if self._count == 1 else f"{plain}-{self._count}")
        report.save(folder)
        return folder

    def _conclude(self, found: Record, verdict: Verdict, where: Path | None) -> Verdict:
        if self._record is not None:
            self._record("robustsuite_outcome", verdict.outcome.value)
            self._record("robustsuite_measured", verdict.message)
        if verdict.outcome is Outcome.PASSED:
            return verdict
        more = (
            f"see more: robustsuite report {where} --format terminal"
            if where is not None
            else "see more: run pytest with --robustsuite-report DIR, then `robustsuite report DIR/...`"
        )
        details = f"attack {found.attack} {_readable(found)}, {found.norm} ball of radius {found.radius}, seed {found.seed}"
        raise GateFailure(f"{verdict.message}\n  {details}\n  {more}")


def _readable(record: Record) -> str:
    inside = ", ".join(f"{k}={v}" for k, v in record.attack_parameters.items() if k != "is")
    return f"({inside})"
