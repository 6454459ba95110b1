"""What follow-up attacks found: an attack's own number, the number with them, what broke more and why they ran."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from robustsuite.core.metrics import FOLLOWED_UP, POWER
from robustsuite.core.suspicions import RESOLVED
from robustsuite.evaluation.records import CLEAN, Record

HEADINGS: Final = (
    "defence", "attack", "clean", "attack alone", "with follow-ups", "undefended", "power", "status", "flags",
    "broken by",
)  # fmt: skip


class FollowUpRow(NamedTuple):
    """One cell of attacks that are joined, as text; rates in percent.

    `own` is what the attack alone left robust, `followed_up` what its follow-up attacks left too; `undefended` is the
    latter of the model without a defence. `power` is the share of planted adversarial examples that the attack and its
    follow-up attacks found, with its interval; empty where none was planted.
    """

    defense: str
    attack: str
    clean: str
    own: str
    followed_up: str
    undefended: str
    power: str
    status: str
    suspicions: str
    found_by: str


def rows(records: Iterable[Record]) -> list[FollowUpRow]:
    """One row for each record that was followed up, beside the undefended model under the same attack.

    Records of other models, and those that no suspicion was raised about, are left out unless some record was
    followed up.
    """
    cells = [r for r in records if r.meaning.joined in r.metrics]
    touched = {(r.attack, r.norm, r.radius) for r in cells if r.review.get("played")}
    twins = {(r.attack, r.radius, r.repeat): r for r in cells if r.defense == CLEAN}
    return [
        _row(r, twins.get((r.attack, r.radius, r.repeat))) for r in cells if (r.attack, r.norm, r.radius) in touched
    ]


def _row(record: Record, twin: Record | None) -> FollowUpRow:
    doubts = [code.removeprefix(RESOLVED) + ("" if code.startswith(RESOLVED) else " (open)") for code in record.flags]
    steps = [step for step in record.review.get("played", ()) if step.get("broke")]
    found = max(steps, key=lambda step: int(step["broke"]), default=None)
    how = "" if found is None else found["attack"] + (f" through {found['through']}" if found.get("through") else "")
    joined = record.meaning.joined
    return FollowUpRow(
        record.defense,
        record.attack,
        _rate(record, "clean_accuracy"),
        _rate(record, joined),
        _rate(record, joined + FOLLOWED_UP),
        "" if twin is None else _rate(twin, joined + FOLLOWED_UP),
        _power(record),
        record.status,
        ", ".join(doubts),
        how,
    )


def _rate(record: Record, name: str) -> str:
    metric = record.metrics.get(name)
    return "" if metric is None else f"{100 * metric.value:.1f}"


def _power(record: Record) -> str:
    metric = record.metrics.get(POWER + FOLLOWED_UP)
    if metric is None or metric.low is None or metric.high is None:
        return ""
    return f"{100 * metric.value:.0f} [{100 * metric.low:.0f}, {100 * metric.high:.0f}]"
