"""The gates of a suite: read from what it says, and held against the defences and attacks that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from robustsuite.core.errors import RequestError
from robustsuite.core.gate import SIDES, WORST, Gate
from robustsuite.core.metrics import FOLLOWED_UP, Declared
from robustsuite.core.renamed import label_of
from robustsuite.suite.problems import Problem, Problems, nearest, quotients, read_dataclass, shown

_SPANS: Final = {"rate": (0.0, 1.0), "rate difference": (-1.0, 1.0)}


def read_gates(values: Any) -> tuple[Gate, ...]:
    """The suite's `gates`: mappings, or the text form.

    Raises:
        RequestError: All that is wrong with any of them by itself.
    """
    if not isinstance(values, (list, tuple)):
        remedy = "write one `- {metric: …, at_least: …}` per line"
        raise RequestError(f"expected a list, got gates={shown(values)}; {remedy}")
    gates: list[Gate] = []
    problems = Problems()
    for index, item in enumerate(values):
        with problems.below(index):
            gates.append(_read(item))
    problems.refuse()
    return tuple(gates)


def _read(item: Any) -> Gate:
    if isinstance(item, str):
        return Gate.parse(item)
    return read_dataclass(Gate, quotients(item, *SIDES.values()), "a gate")


def places(attacks: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Every label that a gate may name -> the games that are played there, of which a worst case may have several.

    Args:
        attacks: Label and game of every attack that is played.
    """
    from robustsuite.scenarios import CLEAN, declared_by  # imports torch

    found: dict[str, tuple[str, ...]] = {"none": (CLEAN.name,), **{label: (game,) for label, game in attacks}}
    joined = tuple(dict.fromkeys(game for _, game in attacks if declared_by(game).joined))
    return {**found, WORST: joined} if joined else found


def gives(declared: Declared, label: str) -> Mapping[str, str]:
    """The metrics of an attack -> their units; the worst case over attacks has one."""
    return {name: s.unit for name, s in declared.metrics.items() if label != WORST or name == declared.joined}


def mistakes(gate: Gate, defenses: Sequence[str], attacks: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    """What this gate names that is not there, or cannot be.

    Args:
        gate: The gate.
        defenses: Labels of the defences.
        attacks: As `places` makes it.
    """
    from robustsuite.scenarios import declared_by  # imports torch

    gate = replace(gate, attack=label_of(gate.attack, attacks))
    for key, label, known in (("defense", gate.defense, defenses), ("attack", gate.attack, attacks)):
        if label and label not in known:
            remedy = nearest(label, known)
            yield Problem((key,), f"expected the label of {_ARTICLE[key]}, got {key}={label!r}; {remedy}")
    if gate.attack and gate.attack not in attacks:
        return
    asked = {gate.attack: attacks[gate.attack]} if gate.attack else attacks
    told = [gives(declared_by(game), label) for label, games in asked.items() for game in games]
    units = {name: unit for known in told for name, unit in known.items()}
    if gate.metric not in units:
        of = "a metric that is measured"
        if gate.attack:
            of = f"a metric of {gate.attack!r}, which plays {' and '.join(attacks[gate.attack])}"
        near = nearest(gate.metric, [name for name in units if not name.endswith(FOLLOWED_UP)])
        yield Problem(("metric",), f"expected {of}, got metric={gate.metric!r}; {near}")
        return
    low, high = _SPANS.get(units[gate.metric], (-float("inf"), float("inf")))
    if not low <= gate.bound <= high:
        span = f"a number in [{low:g}, {high:g}] for the {units[gate.metric]} {gate.metric!r}"
        yield Problem((gate.side,), f"expected {span}, got {gate.side}={gate.bound!r}; 40 % is written 0.4")


_ARTICLE: Final = {"defense": "a defence that is compared", "attack": "an attack that is played"}


def all_mistakes(gates: Sequence[Gate], defenses: Sequence[str], attacks: Sequence[tuple[str, str]]) -> list[Problem]:
    """What is wrong with the gates of a suite beside what it names.

    Args:
        gates: The gates.
        defenses: Labels of the defences.
        attacks: Label and game of every attack that is played.
    """
    found = []
    for index, gate in enumerate(gates):
        found += [problem.below("gates", index) for problem in mistakes(gate, defenses, places(attacks))]
        if gate in gates[:index]:
            found.append(Problem(("gates", index), f"expected each gate once, got {gate} again; remove one of them"))
    return found
