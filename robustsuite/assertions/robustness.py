"""What a test holds: gates that measure, judge, and write down what they saw."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from robustsuite import checks
from robustsuite.errors import RobustsuiteError
from robustsuite.gates import GateFailure, Outcome, Verdict, decide
from robustsuite.protocol import Metric

if TYPE_CHECKING:
    from robustsuite.benchmark.games import AttackLike
    from robustsuite.benchmark.records import Record
    from robustsuite.data.samples import Samples
    from robustsuite.report.report import Report
    from robustsuite.threat import Ball


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
