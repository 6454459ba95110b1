"""One cell from start to record: whatever happens in it becomes data."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustsuite.core import checks
from robustsuite.core.deadline import OutOfTime
from robustsuite.core.errors import NotApplicableError, StorageError
from robustsuite.core.metric import Metrics
from robustsuite.core.payloads import pack
from robustsuite.core.suspicions import Suspicion
from robustsuite.evaluation.record_files import save_samples
from robustsuite.evaluation.records import Record
from robustsuite.evaluation.resolve import Game, why_not
from robustsuite.scenarios.play import play, play_crafted
from robustsuite.scenarios.protocol import Reviewed, Scenario
from robustsuite.scenarios.victim import Victim


@dataclass
class Sheet:
    """Where the record of a cell is filled in."""

    record: Record


@contextmanager
def recorded(blank: Record) -> Iterator[Sheet]:
    """A sheet to fill in; an exception in the block becomes a record of its own.

    Args:
        blank: The record with everything that is known beforehand.

    Raises:
        StorageError: What was trained, or a per-sample file, cannot be kept.
        OutOfTime: There was no time for it.
    """
    started, sheet = time.perf_counter(), Sheet(blank)
    try:
        yield sheet
    except NotApplicableError as error:
        sheet.record = replace(blank, status="not_applicable", message=why_not(error))
    except (KeyboardInterrupt, OutOfTime, StorageError):
        raise
    except BaseException:  # a plug-in may even ask to exit
        sheet.record = replace(blank, status="error", message=traceback.format_exc(limit=-8))
    sheet.record = replace(sheet.record, seconds=time.perf_counter() - started)


def judge(blank: Record, game: Game, victim: Victim, folder: Path | None, *, hurried: bool = False) -> Record:
    """Play one game and fill in its record; an exception becomes a record of its own.

    Args:
        blank: The record with everything that is known beforehand; its message is kept behind that of the judge.
        game: Who attacks, and the rules.
        victim: Who is attacked.
        folder: Where the per-sample file goes; None keeps none.
        hurried: Whether a game counts, as inconclusive, that was played to its end and found no time to be reviewed.

    Raises:
        StorageError: The per-sample file cannot be kept.
        OutOfTime: There was no time for it.
    """
    with recorded(blank) as sheet:
        game.scenario.require(victim)
        sheet.record = judged(blank, game, victim, folder, hurried=hurried)
    return sheet.record


def judged(
    blank: Record,
    game: Game,
    victim: Victim,
    folder: Path | None,
    artefacts: Sequence[Any] = (),
    *,
    hurried: bool = False,
) -> Record:
    """The record of one game.

    Args:
        blank: As for `judge`.
        game: As for `judge`.
        victim: One that has what the game needs.
        folder: As for `judge`.
        artefacts: What the attack crafted beforehand, one a view, where they serve every victim; else it is asked in
            the game.
        hurried: As for `judge`.

    Raises:
        Exception: Whatever attack, judge and victim raise.
    """
    attack, scenario = game.attack, game.scenario
    if artefacts:
        metrics = play_crafted(artefacts, attack, scenario, victim, seed=blank.seed)
    else:
        metrics = play(attack, scenario, victim, seed=blank.seed)
    try:
        metrics, facts = scenario.review(attack, victim, metrics, seed=blank.seed)
    except OutOfTime:
        if not hurried:
            raise
        metrics, facts = _unexamined(metrics)
    _as_declared(metrics, scenario)
    record = replace(_filled(blank, metrics, victim, folder), review=facts)
    record.line()  # what no line can hold is an error of this cell, not of the run
    return record


def _unexamined(metrics: Metrics) -> Reviewed:
    """The attack's own figures, which nothing was found out about."""
    why = "time ended before its sanity checks and follow-up attacks were done"
    told = "; ".join(part for part in (metrics.message, why) if part)
    flags = (*metrics.flags, Suspicion.UNEXAMINED)
    return Reviewed(replace(metrics, status="inconclusive", message=told, flags=flags), {"error": why})


def _as_declared(metrics: Metrics, scenario: Scenario[Any, Any]) -> None:
    """Refuse figures that nobody could read, and a game without any: an empty cell would look measured."""
    kind = type(scenario).__name__
    unknown = [name for name in metrics.values if name not in scenario.metrics]
    if unknown:
        raise checks.fail(f"figures that {kind} declares", "values", unknown, f"add them to {kind}.metrics")
    if not metrics.values and metrics.status == "ok":
        raise checks.fail(f"at least one figure from {kind}", "values", {}, "return one, or another status and why")


def _filled(blank: Record, metrics: Metrics, victim: Victim, folder: Path | None) -> Record:
    path, content = "", ""
    described, tensors = pack(metrics.payloads)
    columns = {**metrics.per_sample, **tensors}
    if folder is not None and columns:
        path, content = save_samples(folder, blank.key, columns)
    trained, declared = victim.trained, [name for name in blank.meaning.headlines if name in metrics.values]
    return replace(
        blank,
        status=metrics.status,
        message="; ".join(part for part in (metrics.message, blank.message) if part),
        flags=tuple(dict.fromkeys((*metrics.flags, *(trained.flags if trained is not None else ())))),
        metrics={name: value for name, value in metrics.values.items() if not math.isnan(value.value)},
        headline=next(iter([*declared, *metrics.values]), ""),
        cost=dict(metrics.cost),
        history=tuple(trained.history) if trained is not None else (),
        training={**(trained.facts if trained is not None else {}), **metrics.facts},
        samples=path,
        samples_digest=content,
        payloads=described if path or not tensors else (),
    )
