"""Gates against a report: which were asked for, and a verdict for every defence and attack that one is about."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from robustsuite.core.errors import RequestError
from robustsuite.core.flags import concerning
from robustsuite.core.gate import WORST, Gate
from robustsuite.core.intervals import interval, over_repeats
from robustsuite.core.metric import Metric
from robustsuite.core.metrics import FOLLOWED_UP
from robustsuite.core.renamed import label_of
from robustsuite.core.suspicions import RESOLVED, Suspicion
from robustsuite.evaluation.records import CLEAN
from robustsuite.evaluation.rules import mixed_rules
from robustsuite.results.deciding import Outcome, Verdict, decide, more_samples, samples_needed
from robustsuite.results.frame import listed, one_line
from robustsuite.results.sweeps import NO_BALL, InBall, ball_text, main_records, own_ball
from robustsuite.results.time_limits import advice
from robustsuite.storage.files import write_atomically
from robustsuite.suite import yaml_lines
from robustsuite.suite.gates import gives, read_gates

if TYPE_CHECKING:
    from robustsuite.evaluation.records import Record
    from robustsuite.results.results import Results

FILE: Final = "gates.json"
MEANINGS: Final = {
    0: "no cell raised and every gate passed",
    1: "a cell raised, or a gate failed",
    3: "the measurement does not support a verdict on every gate",
}
URGENCY: Final = (Outcome.FAILED, Outcome.INCONCLUSIVE, Outcome.PASSED)


class FigurePlace(NamedTuple):
    """Where a figure stands: a defence in a suite, an attack, and of a verdict its ball."""

    suite: str
    dataset: str
    defense: str
    attack: str
    ball: InBall = NO_BALL


def save(folder: Path | str, gates: Sequence[Gate]) -> None:
    """Write the gates of an evaluation into its folder; without any, those of an earlier one are removed."""
    path = Path(folder) / FILE
    if gates:
        text = json.dumps([gate.written() for gate in gates], indent=1)
        write_atomically(path, f"{text}\n".encode())
    else:
        path.unlink(missing_ok=True)


def load(folder: Path | str) -> tuple[Gate, ...]:
    """The gates that were asked for: of an evaluation from `gates.json`, of a run from its `suite.yaml`.

    No plug-in is imported, so a run can be judged where its plug-ins are not installed.

    Args:
        folder: The folder of a run or an evaluation.

    Returns:
        In the order in which they were written; empty where none was asked for.

    Raises:
        RequestError: A file that somebody has changed to something else.
    """
    for name in (FILE, "suite.yaml"):
        path = Path(folder) / name
        if path.is_file():
            return _read(path)
    return ()


def _read(path: Path) -> tuple[Gate, ...]:
    try:
        values: Any = yaml_lines.parse(path.read_text(encoding="utf-8"), str(path)).value  # JSON is YAML
        listed = values.get("gates", []) if isinstance(values, dict) else values
        return read_gates(listed)
    except (OSError, UnicodeDecodeError, RequestError) as error:
        raise RequestError(f"expected gates as the suite writes them, got {path}; {error}") from error


def judge(gates: Iterable[Gate], report: Results) -> tuple[Verdict, ...]:
    """Hold a report against the gates it was asked to pass.

    A pure function of the records: figures over all repeats at the suite's own radius, the worst case over attacks
    where the per-sample files are at hand. What is missing, raised or could not be played is inconclusive and named.

    Args:
        gates: What was asked for.
        report: What was measured.

    Returns:
        In the order of the gates, one verdict for each defence and attack that a gate is about, its `gate` filled in.
    """
    records = main_records(report.joined)
    cells: dict[FigurePlace, list[Record]] = {}
    for record in records:
        place = FigurePlace(record.suite, record.dataset, record.defense, record.attack, own_ball(record))
        cells.setdefault(place, []).append(record)
    repeats = len({record.repeat for record in records})
    return tuple(verdict for gate in gates for verdict in _verdicts(gate, cells, repeats))


def judged(report: Results) -> tuple[Verdict, ...]:
    """Verdicts on the gates that the report's folder was asked to pass; none where it was asked for none.

    None passes where the folder's records are not as they were written.

    Raises:
        RequestError: Its file of gates has been changed to something else.
    """
    verdicts = () if report.folder is None else judge(load(report.folder), report)
    faults = report.lines.faults
    return tuple(_doubted(verdict, faults[0]) for verdict in verdicts) if faults else verdicts


def _doubted(verdict: Verdict, fault: str) -> Verdict:
    if verdict.outcome is not Outcome.PASSED:
        return verdict
    told = f"inconclusive: {verdict.measured}; {fault}: give the command of the run again"
    return replace(verdict, outcome=Outcome.INCONCLUSIVE, message=told)


def worst(verdicts: Iterable[Verdict]) -> Outcome | None:
    """Failed where any failed, else inconclusive where any is, else passed; None without verdicts."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return next((outcome for outcome in URGENCY if outcome in outcomes), None)


def exit_code(records: Iterable[Record], verdicts: Iterable[Verdict]) -> int:
    """What the command ends with: 1 where a cell raised or a gate failed, else 3 where a gate is inconclusive, else 0.

    Example:
        >>> exit_code([], [])
        0
    """
    outcome = worst(verdicts)
    if outcome is Outcome.FAILED or any(record.status == "error" for record in records):
        return 1
    return 3 if outcome is Outcome.INCONCLUSIVE else 0


def _verdicts(gate: Gate, cells: Mapping[FigurePlace, Sequence[Record]], repeats: int) -> Iterator[Verdict]:
    defended = {place[:3]: None for place in cells if gate.defense in ("", place.defense)}
    several = len({place[:2] for place in defended}) > 1
    if not defended:
        yield _unknown(gate, f"no record of the defence {gate.defense!r}" if gate.defense else "no records")
    for suite, dataset, defense in defended:
        beside: dict[str, dict[InBall, Sequence[Record]]] = {}
        for place, found in cells.items():
            if place[:3] == (suite, dataset, defense):
                beside.setdefault(place.attack, {})[place.ball] = found
        where = f"{suite}/{dataset}: " if several else ""
        every = {attack: [r for found in balls.values() for r in found] for attack, balls in beside.items()}
        for attack in _attacks(gate, every) or ("",):
            asked, balls = replace(gate, defense=defense, attack=attack), beside.get(attack, {NO_BALL: ()})
            for ball, found in balls.items():
                at = ball_text(ball, balls)
                yield replace(_verdict(asked, where, found, repeats, at and f" at {at}"), at=at)


def _attacks(gate: Gate, beside: Mapping[str, Sequence[Record]]) -> tuple[str, ...]:
    """The attacks that the gate is about: the one it names, the clean evaluation, or all that give its metric.

    The rate by which attacks are joined is, without an attack, that of the verdict, wherever there is one.
    """
    if gate.attack:
        return (label_of(gate.attack, beside),)
    if any(gate.metric == record.meaning.joined for record in beside.get(WORST, ())):
        return (WORST,)
    giving = tuple(attack for attack, records in beside.items() if _gives(records, gate.metric, attack))
    return (CLEAN,) if CLEAN in giving else giving


def _gives(records: Sequence[Record], metric: str, attack: str) -> bool:
    return any(metric in gives(record.meaning, attack) or metric in listed(record) for record in records)


def _unknown(gate: Gate, why: str) -> Verdict:
    sign = "at least" if gate.at_least is not None else "at most"
    head = f"{gate.place}{': ' if gate.place else ''}{gate.metric}"
    return Verdict(Outcome.INCONCLUSIVE, f"inconclusive: {head} asked for {sign} {gate.bound:g}; {why}", gate)


def _verdict(gate: Gate, where: str, records: Sequence[Record], repeats: int, at: str) -> Verdict:
    measured = [record for record in records if gate.metric in record.figures]
    lacking = _lacking(gate, records, measured, repeats)
    if not measured:
        return _unknown(gate, lacking)
    own, followed_up = [record.figures[gate.metric] for record in measured], _followed_up(gate, records)
    metrics = own if gate.own else _worse(own, followed_up)
    if not gate.own and _lost(gate, measured, followed_up):
        lost = f"{gate.attack} was followed up, and what is left then is not told of every repeat"
        lacking = "; ".join(part for part in (lacking, lost) if part)
    if others := mixed_rules(measured):
        lacking = "; ".join(part for part in (lacking, f"repeats were played by different rules: {others}") if part)
    merged = over_repeats(metrics)
    codes = [code for record in measured for code in record.flags]
    flags = concerning(codes, gate.metric, {name for record in records for name in listed(record)})
    spec = measured[0].meaning.spec(gate.metric)
    if spec.untouched:
        flags = tuple(flag for flag in flags if flag == Suspicion.NONDETERMINISTIC)
    told = (one_line(record) for record in measured if record.status == "inconclusive")
    doubt = "; ".join(dict.fromkeys(filter(None, told)))
    found = decide(
        replace(merged, better="") if spec.undirected else merged,  # a doubt tells nothing of its direction
        gate.at_least,
        at_most=gate.at_most,
        name=f"{where}{gate.place}{': ' if gate.place else ''}{gate.metric}{_whose(gate, own, metrics)}{at}",
        flags=flags,
        doubt=doubt,
        flattered=gate.attack == WORST,
        lacking=lacking,
        advice=_settling(metrics, merged, gate.bound, measured),
    )
    return replace(found, gate=gate, metric=merged)


def _followed_up(gate: Gate, records: Sequence[Record]) -> list[Metric]:
    """What the gate's figure is once follow-up attacks are counted; empty where none were played."""
    name = gate.metric + FOLLOWED_UP
    return [record.figures[name] for record in records if name in record.figures]


def _lost(gate: Gate, measured: Sequence[Record], followed_up: Sequence[Metric]) -> bool:
    """Whether a figure with follow-up attacks is missing where such attacks were played."""
    if gate.attack == WORST or gate.metric + FOLLOWED_UP not in gives(measured[0].meaning, gate.attack):
        return False
    settled = any(code.startswith(RESOLVED) for record in measured for code in record.flags)
    return len(followed_up) != len(measured) and (bool(followed_up) or settled)


def _worse(own: list[Metric], followed_up: list[Metric]) -> list[Metric]:
    """Of an attack's own figures and those with its follow-ups, the ones that are worse for the defender."""
    if len(followed_up) != len(own):
        return own
    sign = -1 if own[0].better == "lower" else 1
    before, after = (sign * sum(metric.value for metric in metrics) for metrics in (own, followed_up))
    return followed_up if after < before else own


def _whose(gate: Gate, own: Sequence[Metric], judged: Sequence[Metric]) -> str:
    """Whose number is judged, where one might think of another."""
    if gate.own:
        return f" (own: {gate.attack} alone, without its follow-up attacks)"
    alone = over_repeats(own).value
    return "" if judged is own else f" with follow-up attacks ({gate.attack} alone: {alone:.3f})"


def _lacking(gate: Gate, records: Sequence[Record], measured: Sequence[Record], repeats: int) -> str:
    """Which of the records that the gate is about have no figure, and why; empty where none lacks."""
    name = "the clean evaluation" if gate.attack == CLEAN else gate.attack or gate.metric
    if not records:
        return f"no record of {name}" if gate.attack else "no attack gives it"
    got = {record.repeat for record in measured}
    silent = {record.repeat: record for record in records if record.repeat not in got}
    told = []
    for repeat, record in silent.items():
        which = f"{name} (repeat {repeat})" if repeats > 1 else name
        if record.measured:
            why = f": {one_line(record)}" if record.status == "inconclusive" and one_line(record) else ""
            told.append(f"{which} gives no {gate.metric} here{why}")
        else:
            why = f": {one_line(record)}" if one_line(record) else ""
            told.append(f"{which} has status {record.status.replace('_', ' ')}{why}")
    absent = repeats - len(got) - len(silent)
    return "; ".join([*told, *([f"{name} has no record of {absent} of {repeats} repeats"] if absent > 0 else [])])


def _settling(metrics: Sequence[Metric], merged: Metric, threshold: float, records: Sequence[Record]) -> str | None:
    """What would settle it, where there is more to say than how many more samples."""
    budget = records[0].budget
    if budget and len(metrics) == 1 and merged.unit == "rate" and merged.low is not None:
        return advice(merged, threshold, budget)
    return _repeating(metrics, merged, threshold)


def _repeating(metrics: Sequence[Metric], merged: Metric, threshold: float) -> str | None:
    """What settles a figure over repeats, whose interval holds two sources of spread; None for one repeat."""
    if len(metrics) == 1 or merged.low is None or merged.high is None:
        return None
    below = threshold <= merged.value  # the side on which the interval holds the threshold
    half = merged.value - merged.low if below else merged.high - merged.value
    ends = [(m.value - m.low, m.high - m.value) for m in metrics if m.low is not None and m.high is not None]
    known = [end[0 if below else 1] for end in ends]
    sampling = sum(known) / len(known) if known else 0.0
    training, apart = math.sqrt(max(0.0, half**2 - sampling**2)), abs(merged.value - threshold)
    if training >= apart or merged.unit != "rate":
        what = "more repeats would settle it, no more samples" if training >= apart else "more of both would settle it"
        return f"the spread over {len(metrics)} trainings leaves it open: {what}"

    def bounds(successes: int, n: int) -> tuple[float, float]:
        rate, (low, high) = successes / n, interval(successes, n)
        return rate - math.hypot(training, rate - low), rate + math.hypot(training, high - rate)

    judged = merged.n // len(metrics)
    needed = samples_needed(merged.value, threshold, more_than=judged, bounds=bounds)
    return more_samples(judged, needed, where=" in each repeat")
