"""Which cells a run's folder was to hold, by its own `suite.yaml`: what is absent from the records was not run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from robustsuite.core import checks
from robustsuite.core.canonical import digest
from robustsuite.core.errors import RobustsuiteError
from robustsuite.core.renamed import ATTACKS, labels_of
from robustsuite.evaluation.records import EVALUATION, Record
from robustsuite.suite import yaml_lines

FILE: Final = "suite.yaml"
_CLEAN: Final = ("none", "none")
Use = tuple[str, str]
"""Label and name of a defence or an attack."""
Threat = Mapping[str, Any]
"""Norm and radius of an attack that is not played in the suite's ball; empty of others."""
PlannedAttack = tuple[str, str, Threat]
"""Label, name and threat."""


def complete(records: Sequence[Record], folder: Path) -> list[Record]:
    """The records with one of status `not_run` for each planned cell that has none.

    A run that was interrupted before its strongest attack must not look like one that never asked for it. Nothing of
    the suite but its labels is read, and no plug-in file is loaded, so a run can be judged where its plug-ins are not
    installed. Points of curves are left out: no gate and no verdict is about them.

    Args:
        records: What the folder holds.
        folder: A run's or an evaluation's folder; without a `suite.yaml` nothing is known to be missing.

    Raises:
        RequestError: A `suite.yaml` that somebody has changed to something else.
    """
    path = folder / FILE
    if not records or not path.is_file():
        return list(records)
    suite = yaml_lines.parse(path.read_text(encoding="utf-8", errors="replace"), str(path)).value
    try:
        planned = list(_planned(suite))
    except (TypeError, ValueError, AttributeError) as error:
        raise checks.fail(
            "a suite as the run wrote it", FILE, str(path), "restore it, or run the suite again"
        ) from error
    own = [record for record in records if record.suite == suite.get("name", record.suite)] or list(records)
    there = {(record.defense, record.attack, record.repeat) for record in own if not record.sweep}
    absent = [cell for cell in planned if (cell[0], cell[1][0], cell[2]) not in there]
    return sorted([*records, *(_not_run(own, *cell) for cell in absent)], key=lambda record: record.order)


def _planned(suite: Mapping[str, Any]) -> Iterator[tuple[str, PlannedAttack, int]]:
    """Label of the defence, attack, and repeat of every cell."""
    written = suite.get("attacks") or ()
    listed = [_use(item) for item in written]
    labels = labels_of(listed, made=suite.get("name") == EVALUATION)
    names = [ATTACKS.get(name, name) for _, name in listed]
    attacks = [(*_CLEAN, {}), *zip(labels, names, map(_threat, written), strict=True)]
    for repeat in range(int(suite.get("repeats", 1))):
        for defense in suite.get("defenses") or ["none"]:
            parts = defense if isinstance(defense, list) else [defense]
            label = "+".join(_use(part)[0] for part in parts)
            for attack in attacks:
                yield label, attack, repeat


def _use(item: Any) -> Use:
    ((name, options),) = ({item: None} if isinstance(item, str) else item).items()
    return str((options or {}).get("label", name)), str(name)


def _threat(item: Any) -> Threat:
    options = None if isinstance(item, str) else next(iter(item.values()))
    threat = (options or {}).get("threat") or {}
    return {key: threat[key] for key in ("norm", "radius") if key in threat} if isinstance(threat, Mapping) else {}


def _not_run(records: Sequence[Record], defense: str, attack: PlannedAttack, repeat: int) -> Record:
    """What is known of a cell without a record."""
    label, name, threat = attack
    beside = [record for record in records if record.defense == defense] or records
    like = next((record for record in records if record.attack == label and not record.sweep), None)
    seed = next((record.seed for record in records if record.repeat == repeat), records[0].seed)
    known = Record(
        key=digest(["not run", records[0].suite, defense, label, repeat]),
        order=beside[-1].order,
        suite=records[0].suite,
        dataset=records[0].dataset,
        model=beside[-1].model,
        defense=defense,
        attack=label,
        scenario=_scenario(name),
        repeat=repeat,
        seed=seed,
        status="not_run",
        message="the run ended before this cell",
        **threat,
    )
    if like is None:
        return known
    same = {field: getattr(like, field) for field in ("scenario", "knowledge", "norm", "radius", "headline", "means")}
    return replace(known, **same)


def _scenario(name: str) -> str:
    from robustsuite.plugins import registry
    from robustsuite.scenarios import STANDARD

    try:
        return registry.attacks.get(name).scenario
    except RobustsuiteError:
        return STANDARD.name  # whatever it is: an attack that nobody here knows must not be left out of the verdict
