"""How a run ended, as one JSON object for scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robustsuite.core.canonical import plain
from robustsuite.report.files import NAMES
from robustsuite.results import gates
from robustsuite.results.deciding import Verdict
from robustsuite.results.frame import one_line

if TYPE_CHECKING:
    from robustsuite.results.results import Results


def outcome(report: Results, judged: Sequence[Verdict] = (), **counts: int) -> dict[str, Any]:
    """What a pipeline asks first: how it ends, how many cells have which status, what the gates say, where things lie.

    Numbers that JSON has no word for stand as the text `inf`, `-inf` or `nan`.

    Args:
        report: What was measured.
        judged: Verdicts on the gates that were asked for.
        **counts: What else to count, such as cells reused.
    """
    code = gates.exit_code(report.records, judged)
    folder = report.folder
    written = {kind: str(folder / name) for kind, name in NAMES.items() if (folder / name).is_file()} if folder else {}
    told: dict[str, Any] = plain(
        {
            "suite": ", ".join(dict.fromkeys(record.suite for record in report.records)),
            "folder": None if folder is None or not written else str(folder),
            "exit_code": code,
            "meaning": gates.MEANINGS[code],
            "cells": {"total": len(report), **Counter(record.status for record in report.records), **counts},
            "gates": [_verdict(verdict) for verdict in judged],
            "errors": [
                {**{key: getattr(record, key) for key in ("defense", "attack", "repeat")}, "message": one_line(record)}
                for record in report.records
                if record.status == "error"
            ],
            "files": written,
        }
    )
    return told


def _verdict(verdict: Verdict) -> dict[str, Any]:
    gate, metric = verdict.gate, verdict.metric
    asked = {} if gate is None else {key: getattr(gate, key) for key in ("defense", "attack", "metric", gate.side)}
    seen = {} if metric is None else {key: getattr(metric, key) for key in ("value", "low", "high", "n")}
    said = {"outcome": verdict.outcome.value, "message": verdict.message, "flags": verdict.flags}
    return {"gate": verdict.asked, **asked, **seen, **said}
