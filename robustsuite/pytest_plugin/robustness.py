"""What a test holds: gates that measure, judge, and write down what they saw."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustsuite.core import checks
from robustsuite.core.deadline import in_words
from robustsuite.core.errors import RobustsuiteError
from robustsuite.core.gate import Gate
from robustsuite.evaluation.looks import looks
from robustsuite.pytest_plugin.baselines import hold, replace_baseline
from robustsuite.pytest_plugin.folders import folder_name, held
from robustsuite.results.deciding import GateFailure, Outcome, Verdict, decide, more_samples, samples_needed, settled
from robustsuite.results.time_limits import advice

if TYPE_CHECKING:
    from robustsuite.core.ball import BallLike
    from robustsuite.evaluation.records import Record
    from robustsuite.evaluation.resolve import AttackLike
    from robustsuite.pytest_plugin.measuring import Measurement
    from robustsuite.report.report import Report

_METRIC = "robust_accuracy"
_MIN_EFFECT = 0.005
_ALPHA = 0.05


class Robustness:
    """What a test holds: gates that measure, judge, and write down what they saw.

    Args:
        name: The test's id; no two tests that run at once share one.
        samples: Judge each gate on at most so many samples, each class in its share; None for all.
        folder: Write records, tables and report of each gate below it; None writes nothing.
        record: Told names and plain values for the test's report, as pytest's `record_property` is.
        command: What runs this test, as typed in a shell.
        root: Where the paths of baselines start; None for the working folder.
        update: Write baselines instead of comparing with them.
        before: Gates that were asked under this name already.

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
        command: str = "pytest",
        root: Path | str | None = None,
        update: bool = False,
        before: int = 0,
    ) -> None:
        if samples is not None:
            checks.integer("samples", samples, low=1)
        self._name, self._samples, self._folder, self._record = name, samples, folder, record
        self._command, self._root, self._update, self._count = command, Path(root or "."), update, before

    def assert_robust(
        self,
        model: Any,
        data: Any,
        *,
        attack: AttackLike = "pgd",
        ball: BallLike,
        at_least: float,
        seed: int = 0,
        classes: int | None = None,
        own: bool = False,
        budget: float | str | None = None,
    ) -> Verdict:
        """Require a robust accuracy of at least `at_least` under an attack and its follow-up attacks.

        Sanity checks examine what the attack left, and what they suspect starts attacks that resolve it. The lower of
        the attack's own number and that with them is judged, so that no number passes because a gradient is masked.

        Growing numbers of samples are judged until the verdict is settled, or all of them were. However early it
        stops, it passes a model below the floor, or fails one at or above it, in at most 2.5 % of the runs each
        (`robustsuite.evaluation.looks`).

        Args:
            model: From raw inputs to logits.
            data: `(x, y)`, a `Dataset` or a `DataLoader`.
            attack: A name, an expression such as `"pgd(steps=50)"`, or an attack made by `rs.attack`.
            ball: `(norm, radius)` or a `Ball`.
            at_least: The floor of the robust accuracy, in [0, 1].
            seed: Keys every random draw, and the order in which samples are judged.
            classes: Number of classes, by default what the logits say.
            own: Whether the attack's own number is judged instead, whatever its follow-up attacks broke.
            budget: Time for it, such as `"30s"` or `"10m"`: it stops then, and judges the interval that was reached.

        Returns:
            The verdict, which passed.

        Raises:
            GateFailure: The interval contradicts the floor, or cannot decide.
            RequestError: Anything asked for that cannot be, such as an attack that is no evasion.
            RobustsuiteError: The attack raised; its traceback stands in the message.
        """
        __tracebackhide__ = True
        from robustsuite.core.ball import as_ball
        from robustsuite.evaluation.clock import TimeBudget
        from robustsuite.pytest_plugin.measuring import measure

        limit = None if budget is None else TimeBudget(budget)
        gate = Gate(metric=_METRIC, at_least=checks.real("at_least", at_least, low=0.0, high=1.0))
        _refuse_other_games(attack)
        seen = measure(
            model,
            data,
            attack,
            as_ball(ball),
            lambda metric, found: settled(metric, gate, found.flags, _doubt(found)),
            seed=seed,
            classes=classes,
            most=self._samples,
            own=own,
            budget=limit,
        )
        where = self._write(seen.report)
        verdict = _judged(seen, at_least, replace(gate, attack=seen.found.attack, own=own))
        self._note(verdict, {**_figures(seen), "at_least": at_least}, where)
        return _passed(verdict, [*_played(seen), self._see(where)])

    def assert_no_regression(
        self,
        report: Report | Path | str,
        *,
        baseline: Path | str,
        min_effect: float = _MIN_EFFECT,
        alpha: float = _ALPHA,
        metrics: Collection[str] = (),
        allow_missing: bool = False,
    ) -> Verdict:
        """Require that nothing got worse than in a report on disk, sample by sample.

        Fails on a regression: a figure that is worse by at least `min_effect` and by more than chance over the whole
        table (paired tests, adjusted by Holm's method), a cell that fails now, a privacy guarantee that got weaker.
        Inconclusive where there is no baseline, or nothing that could be tested against it, and where a figure of the
        baseline is missing, was measured under other rules, cannot be read or is in doubt now.

        With `--robustsuite-update-baseline` the report becomes the baseline, and nothing is compared.

        Args:
            report: What `rs.evaluate` or `rs.run` gave, or the folder of a run.
            baseline: Folder of the earlier report; a relative one starts where pytest's rootdir is.
            min_effect: Least worsening of a rate that counts, in [0, 1].
            alpha: Level of the whole table, in (0, 1).
            metrics: Names of the figures to compare; empty for all.
            allow_missing: Whether figures that are missing now are excused; nothing else is.

        Returns:
            The verdict, which passed.

        Raises:
            GateFailure: Something got worse, or nothing can be said.
            RequestError: A number out of range, or a folder that is no report's.
        """
        __tracebackhide__ = True
        from robustsuite.report.report import Report

        now = report if isinstance(report, Report) else Report.load(report)
        path = self._root / baseline
        where = self._write(now)
        if self._update:
            found = replace_baseline(path, now)
        else:
            found = hold(now, path, min_effect=min_effect, alpha=alpha, metrics=metrics, allow_missing=allow_missing)
        self._note(found.verdict, {**found.facts, "baseline": str(path)}, where)
        accept = f"to make this report the baseline: {self._command} --robustsuite-update-baseline"
        return _passed(found.verdict, [*found.rows, accept, self._see(where)])

    def _write(self, report: Report) -> Path | None:
        self._count += 1
        if self._folder is None:
            return None
        name = folder_name(self._name)
        folder = Path(self._folder) / (name if self._count == 1 else f"{name}-{self._count}")
        with held(folder):
            return report.save(folder)

    def _note(self, verdict: Verdict, facts: dict[str, Any], where: Path | None) -> None:
        if self._record is None:
            return
        prefix = "robustsuite" if self._count == 1 else f"robustsuite_{self._count}"
        told = {"outcome": verdict.outcome.value, "measured": verdict.message, **facts}
        for name, value in (told if where is None else {**told, "report": where}).items():
            self._record(f"{prefix}_{name}", checks.recordable(value))

    def _see(self, where: Path | None) -> str:
        """The command that shows more."""
        if where is not None:
            return f"see more: robustsuite report {shlex.quote(str(where))}"
        return f"see more: {self._command} --robustsuite-report robustness"


def _judged(seen: Measurement, at_least: float, gate: Gate) -> Verdict:
    __tracebackhide__ = True
    if seen.metric is None:
        if seen.found.status == "error":
            raise RobustsuiteError(_raised(seen.found))
        return Verdict(Outcome.INCONCLUSIVE, f"inconclusive: no {_METRIC}; {seen.found.message}; give more time", gate)
    verdict = decide(
        seen.metric,
        at_least,
        name=f"{_METRIC}{_whose(seen, gate.own)}",
        flags=seen.found.flags,
        doubt=_doubt(seen.found),
        advice=_advice(seen, at_least),
    )
    return replace(verdict, gate=gate)


def _passed(verdict: Verdict, more: Sequence[str]) -> Verdict:
    __tracebackhide__ = True
    if verdict.outcome is not Outcome.PASSED:
        raise GateFailure("\n  ".join((verdict.message, *more)))
    return verdict


def _doubt(found: Record) -> str:
    return found.message if found.status == "inconclusive" else ""


def _advice(seen: Measurement, floor: float) -> str:
    """How many samples would settle it, should the rate stay what it is: at the last look of a plan for so many."""
    if seen.metric is None:
        return ""
    if seen.found.budget:
        return advice(seen.metric, floor, seen.found.budget)
    needed = samples_needed(
        seen.metric.value, floor, more_than=seen.metric.n, bounds=lambda k, n: looks(n)[-1].interval(k)
    )
    return more_samples(seen.metric.n, needed)


def _figures(seen: Measurement) -> dict[str, Any]:
    """What a test's report tells of the measurement."""
    metric = seen.metric
    values = {} if metric is None else {"value": metric.value, "low": metric.low, "high": metric.high, "n": metric.n}
    told = {f"{_METRIC}_{name}": value for name, value in values.items()}
    return {**told, "samples_used": seen.used, "samples_given": seen.given}


def _whose(seen: Measurement, own: bool) -> str:
    """Whose number is judged, where one might think of another."""
    if own:
        return f" (own: {seen.found.attack} alone, without its follow-up attacks)"
    alone = seen.found.metrics[_METRIC].value
    lower = seen.metric is not None and seen.metric.value < alone
    return f" with follow-up attacks ({seen.found.attack} alone: {alone:.3f})" if lower else ""


def _played(seen: Measurement) -> list[str]:
    """What was played on how many samples."""
    found, used = seen.found, seen.used
    options = ", ".join(f"{key}={value}" for key, value in found.attack_parameters.items() if key != "is")
    lines = [f"attack {found.attack}({options}), {found.norm} ball of radius {found.radius:g}, seed {found.seed}"]
    if found.budget:
        lines.append(f"judged {used} of the {seen.given} samples given in {in_words(found.budget['spent'])}")
    elif used < seen.last.n:
        lines.append(f"judged {used} of the {seen.given} samples given, which settles it")
    elif used < seen.given:
        lines.append(f"judged {used} of the {seen.given} samples given; raise or drop --robustsuite-samples for more")
    return lines


def _raised(found: Record) -> str:
    last = (found.message.strip().splitlines() or ["no message"])[-1]
    return f"the attack {found.attack!r} raised {last}\n{found.message}"


def _refuse_other_games(attack: AttackLike) -> None:
    from robustsuite.evaluation.resolve import resolve
    from robustsuite.scenarios import expect_evasion

    entry, _ = resolve(attack)
    expect_evasion(entry, f"robust accuracy is measured under evasion, and this one plays {entry.scenario}")
