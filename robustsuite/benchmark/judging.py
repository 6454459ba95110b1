"""One cell from start to record: whatever happens in it becomes data."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from robustsuite.benchmark.games import why_not
from robustsuite.benchmark.records import Record, save_samples
from robustsuite.canonical import plain
from robustsuite.diagnostics.escalation import doubted
from robustsuite.errors import NotApplicableError, StorageError
from robustsuite.protocol import Attack, Metric, Metrics, Scenario, Victim, play

Game = tuple[Attack[Any, Any], Scenario[Any, Any]]


Crafted = Callable[[Attack[Any, Any], Scenario[Any, Any]], Any]
"""Hands out the artefact of this attack in this game."""


def judge(
    blank: Record,
    arrange: Callable[[], Game],
    victim: Callable[[], Victim],
    folder: Path | None,
    crafted: Crafted | None = None,
) -> Record:
    """Play one game and fill in its record; an exception becomes a record of its own.

    Args:
        blank: The record with everything that is known beforehand; its message is kept behind that of the judge.
        arrange: Makes the attack and the scenario.
        victim: Makes (trains, recalls) the victim.
        folder: Where the per-sample file goes; None keeps none.
        crafted: Gives the artefact, where one serves every victim; else the attack is asked in the game.

    Raises:
        StorageError: The per-sample file or what was trained cannot be kept.
    """
    started = time.perf_counter()
    try:
        attack, scenario = arrange()
        blank = replace(blank, attack_parameters=plain(attack), **_threat(scenario))
        player = victim()
        for need in scenario.needs:
            player.need(need, f"{scenario.name} is judged with it")
        if crafted is not None:
            artefact = crafted(attack, scenario)
            attack = lambda view, streams: artefact  # noqa: E731, ARG005
        metrics = play(attack, scenario, player, seed=blank.seed)
        metrics, facts = doubted(metrics, attack, scenario, player, seed=blank.seed)
        record = replace(_filled(blank, metrics, player, folder), escalation=facts)
        record.line()  # what no line can hold is an error of this cell, not of the run
    except NotApplicableError as error:
        record = replace(blank, status="not_applicable", message=why_not(error))
    except (KeyboardInterrupt, StorageError):
        raise
    except BaseException:  # a plug-in may even ask to exit
        record = replace(blank, status="error", message=traceback.format_exc(limit=-8))
    return replace(record, seconds=time.perf_counter() - started)


def _threat(scenario: Scenario[Any, Any]) -> dict[str, Any]:
    ball = getattr(scenario, "ball", None)
    return (
        {}
        if ball is None
        else {"norm": ball.norm, "radius": ball.radius, "closest": getattr(scenario, "closest", False)}
    )


def _filled(blank: Record, metrics: Metrics, victim: Victim, folder: Path | None) -> Record:
    path, content = "", ""
    columns = {**metrics.per_sample, **metrics.artefacts}
    if folder is not None and columns:
        path, content = save_samples(folder, blank.key, columns)
    trained = victim.trained
    values = {name: _metric(value) for name, value in metrics.values.items() if not math.isnan(value.value)}
    return replace(
        blank,
        status=metrics.status,
        message="; ".join(part for part in (metrics.message, blank.message) if part),
        flags=tuple(dict.fromkeys((*metrics.flags, *(trained.flags if trained is not None else ())))),
        metrics=values,
        headline=next(iter(metrics.values), ""),
        cost=dict(metrics.cost),
        history=tuple(trained.history) if trained is not None else (),
        training=dict(trained.facts) if trained is not None else {},
        samples=path,
        samples_digest=content,
    )


def _metric(value: Metric) -> Mapping[str, Any]:
    return {k: v for k, v in asdict(value).items() if v is not None}
