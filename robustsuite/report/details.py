"""Everything that a record says, for those who want to know, and where the run came from."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustsuite.core import flags as doubts
from robustsuite.core.flags import Flag
from robustsuite.evaluation.records import Record
from robustsuite.results import words

if TYPE_CHECKING:
    from robustsuite.core.metric import Metric


@dataclass(frozen=True)
class Detail:
    """One record, ready to be shown."""

    title: str
    where: str
    status: str
    headline: str
    message: str
    flags: tuple[Flag, ...]
    metrics: tuple[tuple[str, str, str, str], ...]
    facts: tuple[tuple[str, str], ...]
    parameters: str
    recipe: str
    training: str
    environment: str


def details(records: Sequence[Record]) -> list[tuple[str, list[Detail]]]:
    """Details by defence, in plan order; an environment that all records share is left to the provenance."""
    shared = len({_text(record.environment) for record in records}) == 1
    groups: dict[str, list[Detail]] = {}
    for record in records:
        groups.setdefault(record.defense, []).append(_detail(record, shared))
    return list(groups.items())


def _detail(record: Record, shared: bool) -> Detail:
    told = record.meaning
    metrics = tuple(
        (words.title(name, told), *_figures(record.metrics[name]))
        for name in sorted(record.metrics, key=lambda n: (n != record.headline, words.place(n, told)))
    )
    ball = f"{record.norm} {record.radius:g}" if record.radius is not None else ""
    parts = [record.scenario, record.knowledge, ball, f"repeat {record.repeat}", f"seed {record.seed}"]
    cost = [f"{count:,} {name}" for name, count in sorted(record.cost.items()) if count]
    return Detail(
        title=record.attack if record.attack != "none" else "clean evaluation",
        where=" · ".join(part for part in parts if part),
        status=record.status,
        headline=f"{metrics[0][0]} {metrics[0][1]}" if metrics else "",
        message=record.message,
        flags=tuple(doubts.describe(code) for code in record.flags),
        metrics=metrics,
        facts=(
            ("cost", ", ".join(cost) or "none counted"),
            ("time", f"{record.seconds:.1f} s"),
            ("key", record.key),
            ("per-sample file", record.samples or "none"),
        ),
        parameters=_text(record.attack_parameters),
        recipe=_text(record.recipe),
        training="\n".join(f"{name}: {_value(value)}" for name, value in record.training.items()),
        environment="" if shared else _text(record.environment),
    )


def _figures(metric: Metric) -> tuple[str, str, str]:
    if math.isnan(metric.value):
        return "–", "", ""
    figure = f"{words.figure(metric.value, metric.unit)} {words.suffix(metric.unit)}".strip()
    return figure, words.interval(metric.low, metric.high, metric.unit), f"{metric.n:,}" if metric.n else ""


def _value(value: Any) -> str:
    """One line: a list of orders would fill a page."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) if value else ""


def command(folder: Path) -> str:
    """The line that runs the suite again, with the folder as seen from the working folder."""
    place = shown_folder(folder)
    suite, again = (place / "suite.yaml").as_posix(), f"{place.as_posix()}-again"
    return f"robustsuite run {shlex.quote(suite)} --out {shlex.quote(again)}"


def shown_folder(folder: Path) -> Path:
    """The folder as seen from the working folder, for files that travel."""
    if not folder.is_absolute():
        return folder
    here = Path(os.path.relpath(folder))
    # A path out of the working folder would name this machine in a page that travels.
    return Path(folder.name) if here.parts[:1] == ("..",) else here


def provenance(records: Sequence[Record]) -> list[tuple[str, str]]:
    """What the run was made of and on: pairs of a name and its values."""
    environments = [_flat(record.environment) for record in records]
    names = dict.fromkeys(name for environment in environments for name in sorted(environment))
    facts = {
        "suite": [record.suite for record in records],
        "data set": [record.dataset for record in records],
        "model": [record.model for record in records],
        "repeats": [str(len({record.repeat for record in records}))],
        "seeds": [str(record.seed) for record in records],
        **{name: [environment.get(name, "") for environment in environments] for name in names},
    }
    joined = {name: ", ".join(dict.fromkeys(v for v in values if v)) for name, values in facts.items()}
    return [(name, value) for name, value in joined.items() if value]


def _flat(value: Mapping[str, Any]) -> dict[str, str]:
    """Nested facts in one level; those that say nothing are left out."""
    flat: dict[str, str] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat.update(_flat(item))
        elif item not in (None, ""):
            flat[str(name)] = str(item)
    return flat
