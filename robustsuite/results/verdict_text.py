"""What writers of reports have to know of gates and their verdicts, which are made a layer above."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from robustsuite.evaluation.records import Record

if TYPE_CHECKING:
    from robustsuite.core.gate import Gate

PASSED: Final = "passed"
FAILED: Final = "failed"
INCONCLUSIVE: Final = "inconclusive"
MEANINGS: Final = {
    0: "no cell raised and every gate passed",
    1: "a cell raised, or a gate failed",
    3: "the measurement does not support a verdict on every gate",
}


class GateVerdict(Protocol):
    """A gate, and whether it passed, failed or is inconclusive; `robustsuite.results.gates.Verdict` is one."""

    @property
    def gate(self) -> Gate | None:
        """What was asked for."""

    @property
    def outcome(self) -> Enum:
        """`passed`, `failed` or `inconclusive` by its value."""

    @property
    def message(self) -> str:
        """What was measured, and what would settle it."""

    @property
    def flags(self) -> tuple[str, ...]:
        """Codes of doubts."""


def outcome(verdict: GateVerdict) -> str:
    """`passed`, `failed` or `inconclusive`."""
    return str(verdict.outcome.value)


def gate_name(verdict: GateVerdict) -> str:
    """The gate as it is written, or a word where nobody wrote one."""
    return "gate" if verdict.gate is None else str(verdict.gate)


def measured(verdict: GateVerdict) -> str:
    """What was measured and what would settle it: the message without the outcome in front."""
    return verdict.message.removeprefix(f"{outcome(verdict)}: ")


def exit_code(records: Iterable[Record], verdicts: Sequence[GateVerdict]) -> int:
    """What the command ends with: 1 where a cell raised or a gate failed, else 3 where a gate is inconclusive, else 0.

    Example:
        >>> exit_code([], [])
        0
    """
    outcomes = Counter(map(outcome, verdicts))
    if outcomes[FAILED] or any(record.status == "error" for record in records):
        return 1
    return 3 if outcomes[INCONCLUSIVE] else 0
