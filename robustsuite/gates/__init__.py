"""Gates with three outcomes: the interval supports the threshold, contradicts it, or cannot tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robustsuite.benchmark.gates import Gate
from robustsuite.gates.deciding import GateFailure, Outcome, Verdict, decide, samples_needed
from robustsuite.gates.judging import judge, load, save, worst

if TYPE_CHECKING:
    from robustsuite.assertions.robustness import Robustness

GateFailure.__module__ = __name__  # as a test's summary names it

__all__ = [
    "Gate",
    "GateFailure",
    "Outcome",
    "Robustness",
    "Verdict",
    "decide",
    "judge",
    "load",
    "samples_needed",
    "save",
    "worst",
]


def __getattr__(name: str) -> Any:
    """What tests hold measures as well as judges; it is imported when it is asked for."""
    if name == "Robustness":
        from robustsuite.assertions.robustness import Robustness

        return Robustness
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
