"""Gates with three outcomes: the interval supports the threshold, contradicts it, or cannot tell."""

from __future__ import annotations

import enum
import hashlib
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from robustsuite import checks
from robustsuite.errors import RobustsuiteError
from robustsuite.protocol import Metric
from robustsuite.report.flags import KNOWN, describe
from robustsuite.statistics import wilson

if TYPE_CHECKING:
    from robustsuite.benchmark.games import AttackLike
    from robustsuite.benchmark.records import Record
    from robustsuite.data.samples import Samples
    from robustsuite.report.report import Report
    from robustsuite.threat import Ball

# Doubts under which a model can only look better than it is: a floor that it misses even so, it misses.
_FLATTERING: Final = ("lost-adversarial", "over-budget", "non-finite", "zero-gradients", "not-adaptive")
_LARGEST: Final = 10_000_000  # samples beyond which "how many more" is no advice


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

    Passes only where the whole interval is at or above the floor, and fails where all of it is below. Between the two
    it is inconclusive, and also where a flag says that the number cannot be believed; but a floor that is missed is
    missed under a flag that can only flatter the model.

    Args:
        metric: A rate with an interval.
        at_least: The floor, in [0, 1].
        name: What the rate is called.
        flags: Doubts of its record; those that an interval already tells are passed over.
        doubt: Why the number cannot be believed, in a sentence, where the judge says so.

    Raises:
        RequestError: A floor outside [0, 1].

    Example:
        >>> decide(Metric(0.9, 100, 0.83, 0.94), 0.5, name="robust_accuracy").outcome.value
        'passed'
    """
    checks.real("at_least", at_least, low=0.0, high=1.0)
    low = 0.0 if metric.low is None else metric.low
    high = 1.0 if metric.high is None else metric.high
    seen = f"{name} {metric.value:.3f} [{low:.3f}, {high:.3f}] on {metric.n} samples, asked for at least {at_least:g}"
    grave = tuple(flag for flag in flags if flag not in KNOWN or describe(flag).withholds)
    flattering = all(flag in _FLATTERING for flag in grave) and bool(grave or not doubt)
    if high < at_least and flattering:
        return Verdict(Outcome.FAILED, f"failed: {seen}")
    if grave or doubt:
        return Verdict(Outcome.INCONCLUSIVE, f"inconclusive: {seen}; {_doubts(grave, doubt)}")
    if low >= at_least:
        return Verdict(Outcome.PASSED, f"passed: {seen}")
    return Verdict(Outcome.INCONCLUSIVE, f"inconclusive: {seen}; {_advice(metric, at_least)}")


def _doubts(flags: tuple[str, ...], doubt: str) -> str:
    told = [f"flagged {code} ({describe(code).meaning or 'see the attack'})" for code in flags]
    remedies = [describe(code).remedy for code in flags if describe(code).remedy]
    said = doubt if not flags else ""
    return "; ".join(part for part in (*told, said, f"to settle it: {', '.join(remedies)}" if remedies else "") if part)


def _advice(metric: Metric, floor: float) -> str:
    """How many samples would settle it, should the rate stay what it is."""
    needed = samples_needed(metric.value, floor, more_than=metric.n)
    if needed is None:
        return "the rate is so close to the floor that no number of samples within reach settles it"
    return f"about {needed - metric.n} more samples would settle it, should the rate stay what it is"


def samples_needed(rate: float, floor: float, *, more_than: int = 0) -> int | None:
    """How many samples it takes until the Wilson interval of `rate` no longer holds `floor`.

    Args:
        rate: The rate, in [0, 1].
        floor: The threshold, in [0, 1].
        more_than: How many are not enough.

    Returns:
        The number, about the least; None beyond ten million.

    Example:
        >>> samples_needed(1.0, 0.9)
        35
    """

    def settled(n: int) -> bool:
        low, high = wilson(round(rate * n), n)
        return low >= floor or high < floor

    low, high = more_than, more_than + 1
    while not settled(high):
        low, high = high, 2 * high
        if high > _LARGEST:
            return None
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high


def folder_name(name: str) -> str:
    """A test's id as the name of one folder: as JUnit writes it, with a digest where characters had to be replaced.

    Example:
        >>> folder_name("tests/test_model.py::TestDigits::test_pgd")
        'tests.test_model.TestDigits.test_pgd'
    """
    file, colons, inside = name.partition("::")
    path = PurePosixPath(file.replace("\\", "/"))
    dotted = ".".join((*path.with_suffix("").parts, *inside.split("::"))) if colons else name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", dotted).strip("-.")[:100]
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return plain if plain and plain == dotted else f"{plain or 'gate'}-{digest}"


class Robustness:
    """What a test holds: gates that measure, judge, and write down what they saw.

    Args:
        name: The test's id; no two tests that run at once share one.
        samples: Judge each gate on at most so many samples, each class in its share; None for all.
        folder: Write records, tables and report of each gate below it; None writes nothing.
        record: Told names and values for the test's report, as pytest's `record_property` is.
        command: What shows more, where nothing was written.

    Raises:
        RequestError: A number of samples below 1.
    """

    def __init__(
        self,
        name: str,
        *,
        samples: int | None = None,
        folder: Path | str | None = None,
        record: Callable[[str, Any], None] | None = None,
        command: str = "robustsuite evaluate",
    ) -> None:
        if samples is not None:
            checks.integer("samples", samples, low=1)
        self._name, self._samples, self._folder, self._record = name, samples, folder, record
        self._command, self._count = command, 0

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
            RequestError: Anything asked for that cannot be, such as an attack that is no evasion.
            RobustsuiteError: The attack raised; its traceback stands in the message.
        """
        __tracebackhide__ = True
        from robustsuite.api import evaluate

        checks.real("at_least", at_least, low=0.0, high=1.0)
        _refuse_other_games(attack)
        threat = _ball(ball)
        samples, given = self._share(model, data, threat, classes, seed)
        report = evaluate(model, samples, [attack], threat, seed=seed, classes=classes)
        found = report.records[-1]
        where = self._write(report)
        if found.status == "error":
            raise RobustsuiteError(_raised(found))
        metric = Metric(**found.metrics["robust_accuracy"])
        doubt = found.message if found.status == "inconclusive" else ""
        verdict = decide(metric, at_least, name="robust_accuracy", flags=found.flags, doubt=doubt)
        self._note(verdict, metric, at_least, where)
        if verdict.outcome is not Outcome.PASSED:
            raise GateFailure("\n  ".join((verdict.message, *self._more(found, where, len(samples), given))))
        return verdict

    def _share(self, model: Any, data: Any, ball: Ball, classes: int | None, seed: int) -> tuple[Samples, int]:
        """The samples to judge on, and how many were given."""
        from robustsuite.benchmark.existing import input_bounds
        from robustsuite.data.coerce import to_samples
        from robustsuite.data.samples import stratified
        from robustsuite.streams import Streams

        samples = to_samples(data, classes=classes, bounds=input_bounds(model, data, ball))
        if self._samples is None or self._samples >= len(samples):
            return samples, len(samples)
        (index,) = stratified(samples.y, (self._samples,), Streams(seed).child("samples").generator())
        return samples.take(index), len(samples)

    def _write(self, report: Report) -> Path | None:
        self._count += 1
        if self._folder is None:
            return None
        name = folder_name(self._name)
        return report.save(Path(self._folder) / (name if self._count == 1 else f"{name}-{self._count}"))

    def _note(self, verdict: Verdict, metric: Metric, at_least: float, where: Path | None) -> None:
        if self._record is None:
            return
        prefix = "robustsuite" if self._count == 1 else f"robustsuite_{self._count}"
        self._record(f"{prefix}_outcome", verdict.outcome.value)
        self._record(f"{prefix}_measured", verdict.message)
        for name, value in (("value", metric.value), ("low", metric.low), ("high", metric.high), ("n", metric.n)):
            self._record(f"{prefix}_robust_accuracy_{name}", value)
        self._record(f"{prefix}_at_least", at_least)
        if where is not None:
            self._record(f"{prefix}_report", str(where))

    def _more(self, found: Record, where: Path | None, judged: int, given: int) -> list[str]:
        """What was played, and the command that shows more."""
        options = ", ".join(f"{key}={value}" for key, value in found.attack_parameters.items() if key != "is")
        lines = [f"attack {found.attack}({options}), {found.norm} ball of radius {found.radius:g}, seed {found.seed}"]
        if judged < given:
            lines.append(f"judged {judged} of the {given} samples given; raise or drop --robustsuite-samples for more")
        shows = self._command if where is None else f"robustsuite report {shlex.quote(str(where))}"
        return [*lines, f"see more: {shows}"]


def _raised(found: Record) -> str:
    last = (found.message.strip().splitlines() or ["no message"])[-1]
    return f"the attack {found.attack!r} raised {last}\n{found.message}"


def _ball(given: Any) -> Ball:
    from robustsuite.threat import Ball

    if isinstance(given, Ball):
        return given
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise checks.fail("(norm, radius) or a Ball", "ball", given, "write ('linf', 8 / 255)")
    return Ball(*given)


def _refuse_other_games(attack: AttackLike) -> None:
    from robustsuite.benchmark.games import resolve

    entry, _ = resolve(attack)
    if entry.scenario != "evasion":
        remedy = f"robust accuracy is measured under evasion, and this one plays {entry.scenario}"
        raise checks.fail("an evasion attack", "attack", entry.name, remedy)
