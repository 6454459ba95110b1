"""A run as SARIF 2.1.0: what a code-scanning page shows of it.

Where gates were asked for, a result stands for each that failed (`error`) or could not be decided (`warning`), so that
the page is empty exactly when the release may go on. Without gates a `note` stands for each figure of the comparison
table at which an attack had any success; baselines are passed over. Cells that raised are notifications of the tool,
not results about the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robustsuite.core import flags as doubts
from robustsuite.core.canonical import digest, plain
from robustsuite.core.version import __version__
from robustsuite.report import details
from robustsuite.report.export.sarif_places import Places
from robustsuite.report.export.sarif_rules import Rules, describe
from robustsuite.results import gates, words
from robustsuite.results.cells import Column, TableCell
from robustsuite.results.deciding import Outcome, Verdict
from robustsuite.results.frame import one_line
from robustsuite.results.results import Results
from robustsuite.results.sweeps import attack_name, finished
from robustsuite.results.table import comparison
from robustsuite.results.worst_case import WORST

if TYPE_CHECKING:
    from robustsuite.evaluation.records import Record

Json = dict[str, Any]
SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS: Final = {Outcome.FAILED: "error", Outcome.INCONCLUSIVE: "warning"}
_RAISED, _SKIPPED = "cell-error", "cell-skipped"
_NOTIFICATIONS: Final = (
    describe(_RAISED, "CellError", "A cell of the plan raised; its traceback stands in records.jsonl.", level="error"),
    describe(_SKIPPED, "CellSkipped", "A cell of the plan could not be played, or its figure is in doubt."),
)


def sarif(folder: Path, results: Results, judged: Sequence[Verdict] = ()) -> str:
    """The whole log, with a run for each suite among the records.

    Args:
        folder: The run's folder; results point at lines of its `suite.yaml`, or of its records.
        results: What was measured.
        judged: Verdicts on the gates that were asked for; they stand with the first suite.
    """
    places = Places(folder)
    runs: list[Json] = []
    for suite in dict.fromkeys(record.suite for record in results.records):
        found, joined = ([r for r in some if r.suite == suite] for some in (results.records, results.joined))
        runs.append(_run(found, joined, () if runs else judged, places))
    return json.dumps(plain({"$schema": SCHEMA, "version": "2.1.0", "runs": runs}), indent=1, allow_nan=False) + "\n"


def _run(records: Sequence[Record], joined: Sequence[Record], judged: Sequence[Verdict], places: Places) -> Json:
    first = records[0]
    asked = [verdict.gate.attack for verdict in judged if verdict.gate is not None]
    rules = Rules(records, [WORST, *asked] if any(record.attack == WORST for record in joined) else asked)
    found = _gates(first.suite, judged, rules, places) if judged else _weaknesses(first.suite, joined, rules, places)
    driver = {
        "name": "robustsuite",
        "version": __version__,
        "semanticVersion": __version__,
        "shortDescription": {"text": "Robustness and security evaluation of PyTorch models."},
        "rules": rules.described(),
        "notifications": _NOTIFICATIONS,
        "supportedTaxonomies": rules.supported(),
    }
    return {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"robustsuite/{first.suite}/"},
        "invocations": [_invocation(records, judged, rules, places)],
        "artifacts": [places.artifact()],
        "originalUriBaseIds": {"%SRCROOT%": {"description": {"text": "The folder that the command ran in."}}},
        "taxonomies": rules.catalogues(),
        "results": list(found),
        "properties": dict(details.provenance(records)),
    }


def _gates(suite: str, judged: Sequence[Verdict], rules: Rules, places: Places) -> Iterator[Json]:
    """A result for each gate that did not pass."""
    for verdict in judged:
        level = _LEVELS.get(verdict.outcome)
        if level is None:
            continue
        gate = verdict.gate
        label, defense, metric = ("", "", "") if gate is None else (gate.attack, gate.defense, gate.metric)
        asked = "" if gate is None else str(gate)  # with its bound: two gates on one figure are two results
        about = {"defense": defense, "attack": label, "metric": metric, "flags": verdict.flags}
        yield {
            **_result(rules.reference(label), level, _sentence(verdict.message), places.gate(gate, suite)),
            "partialFingerprints": _fingerprints("gate", suite, defense, label, metric, asked),
            "properties": {"tags": ["gate"], "outcome": verdict.outcome, **about},
        }


def _weaknesses(suite: str, joined: Sequence[Record], rules: Rules, places: Places) -> Iterator[Json]:
    """A note for each figure of the comparison at which an attack had any success."""
    table = comparison(joined)
    balls: dict[str, str] = {}
    for record in joined:
        if record.radius is not None and not record.sweep:
            balls.setdefault(record.attack, f" ({record.norm} {record.radius:g})")
    for label, cells in zip(table.rows, table.cells, strict=True):
        for column, cell in zip(table.columns, cells, strict=True):
            if column.attack and not rules.is_control(column.attack) and _succeeded(cell, column):
                text, place = _measured(label, column, cell, balls), places.attack(column.attack, label, suite)
                yield {
                    **_result(rules.reference(column.attack), "note", text, place),
                    "partialFingerprints": _fingerprints("attack", suite, label, column.attack, column.metric),
                    "properties": _figures(label, column, cell),
                    **_rank(cell, column),
                }


def _result(rule: Json, level: str, text: str, place: Json) -> Json:
    return {**rule, "kind": "fail", "level": level, "message": {"text": text}, "locations": [place]}


def _succeeded(cell: TableCell, column: Column) -> bool:
    """Whether there is a figure, and it is not the best that there could be."""
    if cell.value is None or column.unit not in ("rate", "rate difference"):
        return cell.value is not None
    return cell.value < 1 if column.better == "higher" else cell.value > 0


def _measured(defense: str, column: Column, cell: TableCell, balls: Mapping[str, str]) -> str:
    figure = f"{cell.text} {words.suffix(cell.unit)} {cell.interval}".strip()
    judged = f" on {cell.n} samples" if cell.n else ""
    whom = "the undefended model" if defense == "none" else defense
    what = f"{column.attack}{balls.get(column.attack, '')} against {whom}"
    told = [f"{what}: {column.called} {figure}{judged}."]
    told += [f"In doubt: {code} ({doubts.describe(code).meaning or 'see the attack'})." for code in cell.flags]
    return " ".join(told)


def _figures(defense: str, column: Column, cell: TableCell) -> Json:
    named = {"defense": defense, "attack": column.attack, "metric": column.metric, "scenario": column.scenario}
    return {**named, "value": cell.value, "low": cell.low, "high": cell.high, "n": cell.n, "flags": cell.flags}


def _rank(cell: TableCell, column: Column) -> Json:
    """Most urgent first: the share of what an adversary could get at most, in percent."""
    if cell.value is None or column.unit != "rate":
        return {}
    lost = 1 - cell.value if column.better == "higher" else cell.value
    return {"rank": round(100 * min(max(lost, 0.0), 1.0), 3)}


def _fingerprints(*labels: str) -> dict[str, str]:
    """Stable from run to run: made of labels and of what was asked for alone, not of figures, keys or lines."""
    made = digest(list(labels))
    return {"robustsuite/labels/v2": made, "primaryLocationLineHash": f"{made[:16]}:1"}


def _invocation(records: Sequence[Record], judged: Sequence[Verdict], rules: Rules, places: Places) -> Json:
    code = gates.exit_code(records, judged)
    when = finished(places.folder)
    return {
        "executionSuccessful": all(record.status != "error" for record in records),
        "exitCode": code,
        "exitCodeDescription": gates.MEANINGS[code],
        "toolExecutionNotifications": [
            _notification(record, rules, places) for record in records if record.status != "ok"
        ],
        **({} if when is None else {"endTimeUtc": when.strftime("%Y-%m-%dT%H:%M:%SZ")}),
    }


def _notification(record: Record, rules: Rules, places: Places) -> Json:
    reason, raised = one_line(record), record.status == "error"
    status = record.status.replace("_", " ")
    rule, place = rules.reference(record.attack), f"{record.defense} x {attack_name(record)}"
    told: Json = {
        "level": "error" if raised else "note",
        "descriptor": {"id": _RAISED if raised else _SKIPPED, "index": int(not raised)},
        "associatedRule": {"id": rule["ruleId"], "index": rule["ruleIndex"]},
        "message": {"text": _sentence(f"{place} ({status}): {reason or 'no message'}")},
        "locations": [places.attack(record.attack, record.defense, record.suite)],
        "properties": {"key": record.key, "repeat": record.repeat, "flags": record.flags},
    }
    if raised:
        kind, _, message = reason.partition(": ")
        told["exception"] = {"kind": kind, "message": message}
        told["properties"]["traceback"] = record.message
    return told


def _sentence(text: str) -> str:
    """One line that ends with a full stop, as SARIF asks of messages."""
    flat = " ".join(text.split())
    return flat if flat.endswith((".", "!", "?")) else f"{flat}."
