"""Records to a table, to comparisons and to verdicts of gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustsuite.core.lazy import lazily

if TYPE_CHECKING:
    from robustsuite.results.deciding import GateFailure, Outcome, Verdict, decide, samples_needed
    from robustsuite.results.gates import judge, load, save, worst
else:
    __getattr__ = lazily(
        __name__,
        {
            "GateFailure": ".deciding",
            "Outcome": ".deciding",
            "Verdict": ".deciding",
            "decide": ".deciding",
            "judge": ".gates",
            "load": ".gates",
            "samples_needed": ".deciding",
            "save": ".gates",
            "worst": ".gates",
        },
    )

__all__ = [
    "GateFailure",
    "Outcome",
    "Verdict",
    "decide",
    "judge",
    "load",
    "samples_needed",
    "save",
    "worst",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
