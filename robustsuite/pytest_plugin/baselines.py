"""Reports on disk that a later one must not fall behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robustsuite.core import checks
from robustsuite.pytest_plugin.folders import held
from robustsuite.results.deciding import Outcome, Verdict

if TYPE_CHECKING:
    from robustsuite.report.report import Report
    from robustsuite.results.changes import Row

_FILE = "records.jsonl"


class Found(NamedTuple):
    """What comparing with a baseline gave.

    Attributes:
        verdict: The outcome and why.
        facts: What the test's report tells beside it.
        rows: A line for each regression, and for each figure that has no counterpart.
    """

    verdict: Verdict
    facts: dict[str, Any]
    rows: list[str]


def hold(
    report: Report,
    baseline: Path,
    *,
    min_effect: float,
    alpha: float,
    metrics: Collection[str],
    allow_missing: bool = False,
) -> Found:
    """Hold a report against the one at `baseline`.

    Args:
        report: What was measured now.
        baseline: Folder of the earlier one.
        min_effect: Least worsening of a rate that counts.
        alpha: Level of the whole table.
        metrics: Names of the figures to compare; empty for all.
        allow_missing: Whether figures that are missing now are excused.
    """
    from robustsuite.results.compare import compare

    with held(baseline):
        if not (baseline / _FILE).is_file():
            return Found(Verdict(Outcome.INCONCLUSIVE, f"inconclusive: there is no baseline at {baseline}"), {}, [])
        found = compare(
            baseline, report, min_effect=min_effect, alpha=alpha, metrics=metrics, allow_missing=allow_missing
        )
    outcome = Outcome(found.outcome)
    against = f"{outcome.value}: against {baseline}: {found.summary()}"
    facts = {"regressions": len(found.regressions), "tested": len(found.tested), "gaps": len(found.gaps)}
    gaps = [
        f"{row.gap.value}: {_place(row)}: {row.metric}{f'; {row.message}' if row.message else ''}" for row in found.gaps
    ]
    return Found(Verdict(outcome, against), facts, [*map(_line, found.regressions), *gaps, *found.notes])


def _place(row: Row) -> str:
    return f"{row.defense} x {row.attack}" if row.defense != "none" else row.attack


def _line(row: Row) -> str:
    figures = " -> ".join("none" if value is None else f"{value:.4g}" for value in (row.old, row.new))
    flips = f", {row.worse} samples worse and {row.improved} better of {row.n}" if row.worse is not None else ""
    chance = f", adjusted p {row.adjusted:.2g}" if row.adjusted is not None else ""
    return (
        f"regression: {_place(row)}: {row.metric} {figures}{flips}{chance}{f'; {row.message}' if row.message else ''}"
    )


def replace_baseline(folder: Path, report: Report) -> Found:
    """Make a report the baseline; readers see the old folder or the new one, whole.

    Args:
        folder: Made where it is not there; it may hold an earlier report, and nothing else.
        report: What to write; one with cells that raised is refused.

    Raises:
        RequestError: The folder holds something that is no report.
    """
    broken = [record.attack for record in report.records if record.status == "error"]
    if broken:
        told = f"failed: a report in which {', '.join(broken)} raised is no baseline"
        return Found(Verdict(Outcome.FAILED, told), {}, [])
    if folder.exists() and not (folder / _FILE).is_file() and any(folder.iterdir()):
        raise checks.fail("a new folder or that of a report", "baseline", str(folder), "name another one")
    _write(folder, report)
    told = f"passed: the baseline {folder} was written, and nothing was compared"
    return Found(Verdict(Outcome.PASSED, told), {}, [])


def _write(folder: Path, report: Report) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch, old = (folder.with_name(f".{folder.name}.{what}.{os.getpid()}") for what in ("new", "old"))
    with held(folder):
        try:
            report.save(scratch)
            if folder.exists():
                folder.rename(old)
            scratch.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
