"""Entries of a suite as they are written: `name`, `{name: {options}}` or a list of those, each variant by itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from robustsuite.core.errors import RequestError
from robustsuite.plugins import registry
from robustsuite.scenarios import sort_options
from robustsuite.suite.problems import Problem, Problems, ProblemsError, shown
from robustsuite.suite.sweeps import (
    MOST,
    LabelledBall,
    Variant,
    hints_of,
    is_swept,
    read_balls,
    swept_training,
    variants,
)
from robustsuite.suite.yaml_lines import Path

NONE: Final = "none"
Spread = list[tuple[Any, Variant]]
"""An entry with one value for each of its options, and which of the lists' values these are."""


def inside_of(item: Any) -> Path:
    """Where the options of `name` or `{name: {options}}` stand below it."""
    return (str(next(iter(item))),) if isinstance(item, Mapping) and len(item) == 1 else ()


def split(item: Any, kind: str) -> tuple[str, dict[str, Any]]:
    """Name and options of `name` or `{name: {options}}`."""
    if isinstance(item, str):
        return item, {}
    if not isinstance(item, Mapping) or len(item) != 1:
        raise RequestError(
            f"expected a name or one name with its options, got {kind}={shown(item)}; write `- name` or "
            f"`- name: {{option: value}}`, with the options indented below the name"
        )
    name, options = next(iter(item.items()))
    if options is not None and not isinstance(options, Mapping):
        raise RequestError(
            f"expected a mapping of options, got {name}={shown(options)}; write {name}: {{option: value}}"
        )
    return str(name), {str(key): value for key, value in (options or {}).items()}


def spread_attack(item: Any, balls: Sequence[LabelledBall], norm: str | None) -> Spread:
    """The entry, or for each of its variants an entry of its own."""
    name, options = split(item, "attack")
    if name == NONE:
        return [(item, Variant({}))]
    entry = registry.attacks.get(name)
    own, rules = sort_options(entry, options)
    game = hints_of(entry.game)
    lists: dict[Path, list[Any]] = {(k,): v for k, v in rules.items() if is_swept(game.get(k), v)}
    for (rule,) in lists:
        if rule not in entry.game.sweeps:
            may = f"{entry.scenario} sweeps {' and '.join(entry.game.sweeps) or 'no rule'}"
            message = f"expected one value, got {rule}={shown(options[str(rule)])}; {may}"
            raise ProblemsError([Problem((rule,), message)])
    lists |= _swept(entry, own)
    if has_threat(entry):
        if "threat" in options:
            with _at("threat"):
                balls, several = read_balls(options["threat"], norm)
            balls = balls if several else ()
        else:
            playable = [point for point in balls if point.ball.norm in entry.norms]
            balls = playable or balls[:1]
    else:
        balls = ()
    found = variants(name, options, lists, balls)
    return [({name: one.options}, one) for one in found] if lists or balls else [(item, found[0])]


@contextmanager
def _at(*path: str) -> Iterator[None]:
    """Problems in this block are about the values at this path."""
    problems = Problems()
    with problems.below(*path):
        yield
    problems.refuse()


def has_threat(entry: registry.Entry) -> bool:
    """Whether an attack may be given a threat of its own."""
    return bool(entry.game.needs_threat) and "threat" not in [f.name for f in entry.parameters]


def _swept(entry: registry.Entry, options: Mapping[str, Any]) -> dict[Path, list[Any]]:
    """A plug-in's own options that are lists where single values are expected."""
    hints = hints_of(entry.cls)
    return {(k,): v for k, v in options.items() if k in hints and is_swept(hints[k], v)}


def spread_defense(item: Any) -> Spread:
    """The entry, or for each of its variants an entry of its own; of a composition, for each combination."""
    if not isinstance(item, (list, tuple)):
        return _spread_part(item)
    parts, problems = list[Spread](), Problems()
    for index, part in enumerate(item):
        inside = inside_of(part)
        with problems.below(index, *inside):
            parts.append([(one, variant.below(index, *inside)) for one, variant in _spread_part(part)])
    problems.refuse()
    most = math.prod(map(len, parts))
    if most > MOST:
        raise RequestError(f"expected at most {MOST} variants of one entry, got {most}; shorten a list")
    found = []
    for chosen in itertools.product(*parts):
        places = {path: at for _, variant in chosen for path, at in variant.chosen.items()}
        found.append(([one for one, _ in chosen], Variant({}, places)))
    return found


def _spread_part(item: Any) -> Spread:
    name, options = split(item, "defense")
    known = None if name == NONE else registry.defenses.get(name)
    lists = {} if known is None else _swept(known, options)
    if known is None or "training" not in [f.name for f in known.parameters]:
        lists |= swept_training(options)
    found = variants(name, options, lists)
    return [({name: one.options}, one) for one in found] if lists else [(item, found[0])]
