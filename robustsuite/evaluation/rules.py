"""Whether two records of one cell tell of the same game: what was set to something else, by name and value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustsuite.evaluation.records import Record


def other_rules(old: Record, new: Record) -> str:
    """Which rules of the game, and which options of the attack, are others; empty where none is known to be.

    Older records do not tell the rules that were set to nothing (`Record.tells_rules`).

    Example:
        >>> names = dict(suite="s", dataset="d", model="m", defense="none", attack="badnets", scenario="poisoning")
        >>> one, other = (Record(key="k", order=0, rules={"fraction": share}, **names) for share in (0.01, 0.2))
        >>> other_rules(one, other)
        'other rules (fraction 0.01, now 0.2)'
    """
    rules = changed(old.rules, new.rules) if old.tells_rules and new.tells_rules else ""
    attack = changed(old.attack_parameters, new.attack_parameters)
    told = (f"other rules ({rules})" if rules else "", f"the attack differs ({attack})" if attack else "")
    return "; ".join(part for part in told if part)


def mixed_rules(records: Sequence[Record]) -> str:
    """How the rules of the game differ between repeats that are to be merged; empty where they do not."""
    first = records[0]
    return next((told for record in records[1:] if (told := changed(first.rules, record.rules))), "")


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What was set to something else."""
    return "; ".join(
        f"{name} {old.get(name, 'unset')}, now {new.get(name, 'unset')}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    )
