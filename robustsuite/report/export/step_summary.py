"""What a GitHub job shows of a run: gates first, then the comparison, what is in doubt, and where the report lies."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from robustsuite.evaluation.records import Record
from robustsuite.report import summary
from robustsuite.report.details import shown_folder
from robustsuite.report.export.markup import escape_markdown, markdown, pipes
from robustsuite.results import gates
from robustsuite.results.deciding import Outcome, Verdict
from robustsuite.results.frame import one_line
from robustsuite.results.results import Results
from robustsuite.results.sweeps import attack_name

VARIABLE: Final = "GITHUB_STEP_SUMMARY"
LIMIT: Final = 1024 * 1024  # bytes that GitHub takes of one step; of a longer file it shows nothing
_ERRORS: Final = 20  # cells that raised which are listed before the others are counted
_LEFT_OUT: Final = "\n(More than GitHub shows of one step; the rest stands in the report.)\n"


def step_summary(report: Results, judged: Sequence[Verdict] = ()) -> str:
    """The run in GitHub's Markdown; everything that a record says is escaped.

    Args:
        report: What was measured.
        judged: Verdicts on the gates that were asked for.
    """
    names, table = dict.fromkeys(record.suite for record in report.records), report.comparison
    parts = [
        f"## robustsuite: {escape_markdown(', '.join(names))}",
        _gates(judged),
        escape_markdown(" ".join(summary.sentences(table, report.joined))) if table.rows else "",
        markdown(table).strip(),
        _errors(report.records),
        _place(report.folder),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def publish(
    report: Results, judged: Sequence[Verdict] = (), environment: Mapping[str, str] = os.environ
) -> Path | None:
    """Append the summary to the file that GitHub names; elsewhere nothing is written.

    Args:
        report: What was measured.
        judged: Verdicts on the gates that were asked for.
        environment: Where `GITHUB_STEP_SUMMARY` is looked up.

    Returns:
        The file, or None where there is none or no room is left in it.
    """
    named = environment.get(VARIABLE)
    if not named:
        return None
    path = Path(named)
    room = LIMIT - (path.stat().st_size if path.is_file() else 0)
    content = within(step_summary(report, judged), room)
    if not content:
        return None
    with path.open("ab") as file:
        file.write(content)
    return path


def within(text: str, room: int) -> bytes:
    r"""As many whole lines as `room` bytes hold, with a word where some are missing; nothing where not even that fits.

    Example:
        >>> within("one line\n", 1000)
        b'one line\n'
    """
    whole = text.encode(errors="replace")
    if len(whole) <= room:
        return whole
    left = room - len(_LEFT_OUT.encode())
    if left <= 0:
        return b""
    lines, _, _ = whole[:left].rpartition(b"\n")
    return lines + b"\n" + _LEFT_OUT.encode()


def _gates(judged: Sequence[Verdict]) -> str:
    if not judged:
        return ""
    ordered = sorted(judged, key=lambda verdict: gates.URGENCY.index(verdict.outcome))
    counts = Counter(verdict.outcome.value for verdict in ordered)
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    rows = [[_outcome(v), escape_markdown(v.asked), escape_markdown(v.measured)] for v in ordered]
    return "\n".join([f"**Gates: {told}.**", "", *pipes(["gate", "asked for", "measured"], [":---"] * 3, rows)])


def _outcome(verdict: Verdict) -> str:
    word = verdict.outcome.value
    return word if verdict.outcome is Outcome.PASSED else f"**{word}**"


def _errors(records: Sequence[Record]) -> str:
    raised = [record for record in records if record.status == "error"]
    lines = [
        f"- {escape_markdown(f'{r.defense} x {attack_name(r)} (repeat {r.repeat}): {one_line(r)}')}"
        for r in raised[:_ERRORS]
    ]
    more = [f"- and {len(raised) - _ERRORS} more"] if len(raised) > _ERRORS else []
    return "\n".join([f"**Cells that raised: {len(raised)}**", "", *lines, *more]) if raised else ""


def _place(folder: Path | None) -> str:
    if folder is None or not (folder / "report.html").is_file():
        return ""
    return f"Report and records: `{shown_folder(folder).as_posix().replace('`', '')}`"
