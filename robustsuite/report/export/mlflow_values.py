"""What MLflow is told of a run: names and values that it takes, from records alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core.canonical import digest
from robustsuite.core.errors import RequestError
from robustsuite.core.intervals import over_repeats
from robustsuite.evaluation.records import CLEAN, Record
from robustsuite.report import details
from robustsuite.suite import yaml_lines

if TYPE_CHECKING:
    from robustsuite.core.metric import Metric

TAGS: Final = ("gate.", "status.", "flags.", "not_finite.", "robustsuite.")  # how tags begin that an export writes
_LONGEST_NAME: Final = 250
_OUTSIDE: Final = re.compile(r"[^\w .:-]", re.ASCII)
_MARKED: Final = "…"


def name(*parts: str) -> str:
    """Parts joined by `/`, as MLflow takes names; what it refuses becomes `_` with a digest, so that none collide.

    Example:
        >>> name("pgd", "robust_accuracy")
        'pgd/robust_accuracy'
        >>> name("pgd(steps=5)", "queries")
        'pgd_steps_5_.2df2c9/queries'
    """
    return "/".join(_part(part) for part in parts if part)[:_LONGEST_NAME]


def _part(text: str) -> str:
    mended = _OUTSIDE.sub("_", text)
    mended = f"_{mended}" if mended.startswith(".") else mended
    return mended if mended == text else f"{mended[:80]}.{digest(text)[:6]}"


def shortened(text: str, longest: int) -> str:
    """The text, cut with a mark where it is longer than MLflow takes."""
    return text if len(text) <= longest else text[: longest - len(_MARKED)] + _MARKED


def flat(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as pairs of a dotted name and a text; empty ones are left out.

    Example:
        >>> dict(flat({"training": {"lr": 0.1, "clip": None}, "parts": [{"is": "dp-sgd"}]}))
        {'training.lr': '0.1', 'parts.0.is': 'dp-sgd'}
    """
    if isinstance(values, Mapping):
        items: Iterable[tuple[str, Any]] = ((str(key), item) for key, item in values.items())
    elif isinstance(values, (list, tuple)):
        items = ((str(index), item) for index, item in enumerate(values))
    else:
        if values not in (None, ""):
            yield prefix, str(values)
        return
    for key, item in items:
        yield from flat(item, f"{prefix}.{key}" if prefix else key)


def suite_parameters(folder: Path) -> dict[str, str]:
    """The resolved suite but for its defences, attacks and gates, which runs, parameters and tags tell; or nothing."""
    path = folder / "suite.yaml"
    if not path.is_file():
        return {}
    try:
        values = yaml_lines.parse(path.read_text(encoding="utf-8"), path.name).value
    except (UnicodeDecodeError, RequestError):
        return {}
    kept = {key: value for key, value in values.items() if key not in ("defenses", "attacks", "gates")}
    return {name(key): value for key, value in flat(kept)}


def recipe_parameters(records: Sequence[Record]) -> dict[str, str]:
    """How the defended model came to be, and every attack's own parameters."""
    found = next((record.recipe for record in records if record.recipe), {})
    pairs = [("recipe", *pair) for pair in flat(found)]
    for record in records:
        pairs += [(f"attack.{record.attack}", *pair) for pair in flat(record.attack_parameters)]
    return {name(f"{prefix}.{key}"): value for prefix, key, value in pairs}


def figures(records: Sequence[Record]) -> dict[str, float]:
    """Metrics of one defence over all repeats: `clean_accuracy`, `pgd/robust_accuracy`, and `….low`, `….high`."""
    groups: dict[tuple[str, str], list[Metric]] = {}
    for record in records:
        for metric_name, metric in record.figures.items():
            attack = "" if record.attack == CLEAN else record.attack
            groups.setdefault((attack, metric_name), []).append(metric)
    found = {}
    for (attack, metric_name), metrics in groups.items():
        merged = over_repeats(metrics)
        for end in ("value",) if merged.low == merged.high else ("value", "low", "high"):
            value = getattr(merged, end)
            if value is not None:
                found[name(attack, metric_name if end == "value" else f"{metric_name}.{end}")] = float(value)
    return found


def doubts(records: Sequence[Record]) -> dict[str, str]:
    """Status and flags of each attack, over all repeats and points of its curve."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        attack = "clean" if record.attack == CLEAN else record.attack
        found.setdefault(f"status.{name(attack)}", {})[record.status] = None
        if record.flags:
            found.setdefault(f"flags.{name(attack)}", {}).update(dict.fromkeys(record.flags))
    return {key: ";".join(values) for key, values in found.items()}


def facts(records: Sequence[Record]) -> dict[str, str]:
    """What the run was made of and on."""
    return {f"robustsuite.{name(key.replace(' ', '_'))}": value for key, value in details.provenance(records)}
