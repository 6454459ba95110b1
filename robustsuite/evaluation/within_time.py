"""An evaluation within a budget of time: as many samples as fit, and intervals that hold wherever it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustsuite.core.canonical import digest
from robustsuite.core.deadline import in_words
from robustsuite.core.intervals import at_level
from robustsuite.evaluation.clock import Clock, TimeBudget, looked
from robustsuite.evaluation.growing import Growing
from robustsuite.evaluation.looks import InterimLook, looks_at_any_time
from robustsuite.evaluation.records import Record
from robustsuite.evaluation.resolve import Game
from robustsuite.scenarios import expect_evasion
from robustsuite.scenarios.victim import Victim


def judged_in_time(
    games: Sequence[Game],
    victim: Victim,
    budget: TimeBudget,
    folder: Path,
    *,
    seed: int,
    progress: Callable[[str, int, int], None] | None = None,
    **told: Any,
) -> list[Record]:
    """A record of each game on the samples that there was time for.

    The budget is a rule of the run, and changes no verdict on a sample. A sample whose attack, sanity checks and
    follow-up attacks were not finished in time has no verdict.

    Args:
        games: The clean evaluation, then games of evasion.
        victim: Whom they are played on.
        budget: How much time there is.
        folder: Where per-sample files go.
        seed: Keys every random draw, the order of the samples too.
        progress: Told what is judged so far.
        **told: As `Growing` takes it: name, data, note.
    """
    plan, data = looks_at_any_time(len(victim.test)), dict(told.pop("data", None) or {})
    told["data"] = {**data, "name": data.get("name") or f"{len(victim.test)} samples"}  # however many are judged
    growing = Growing(victim, games, seed, folder, keep=budget.keep is not None, **told)
    blanks = growing.blanks()
    clock = Clock(budget, digest([blank.key for blank in blanks]))
    if progress is not None:
        progress("judging the first samples", 0, growing.given)
    for look in looked(growing, plan, clock):
        if progress is not None:
            progress(f"{look.n} of {growing.given} samples judged", look.n, growing.given)
    facts = clock.facts(plan, growing.n)
    if growing.n == 0:
        return [unjudged(blank, plan, facts) for blank in blanks]
    return [limited(record, facts) for record in (growing.clean(), *growing.attacked())]


def refuse_other_games(games: Sequence[Game]) -> None:
    """Refuse games whose samples are not judged each by itself, so that a part of them has no meaning of its own.

    Raises:
        RequestError: The attack of such a game.
    """
    for game in games[1:]:
        expect_evasion(game.entry, f"a budget stops between samples, and {game.entry.scenario} is judged as a whole")


def unjudged(blank: Record, plan: Sequence[InterimLook], facts: Mapping[str, Any]) -> Record:
    """The record of a game for which time ended before the first look of the plan."""
    why = f"time ended before the first {plan[0].n} samples were judged"
    return replace(blank, status="inconclusive", message=why, budget=facts)


def limited(record: Record, facts: Mapping[str, Any]) -> Record:
    """A record whose intervals hold whenever one might have stopped, and which says what was judged.

    Args:
        record: Of the samples so far.
        facts: As `Clock.facts` gives them.
    """
    if not record.measured:
        return replace(record, budget=facts)
    said = f"{facts['judged']} of {facts['given']} samples judged in {in_words(facts['spent'])}"
    metrics = {name: at_level(metric, facts["level"]) for name, metric in record.metrics.items()}
    message = "; ".join(part for part in (said, record.message) if part)
    return replace(record, metrics=metrics, message=message, budget=facts)
