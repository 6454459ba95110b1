"""A run as JUnit XML: a test case for each gate and each cell, as CI servers read them.

The format is what Jenkins, GitLab and Azure read: `testsuites/testsuite/(properties, testcase*)`. What fails here is
what makes the command fail: gates, and cells that raised. A cell that could not be played, or whose figure is in
doubt, is skipped with its reason, because no cell by itself has to reach anything.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

from robustsuite.evaluation.records import Record
from robustsuite.report import details
from robustsuite.results import words
from robustsuite.results.deciding import Outcome, Verdict
from robustsuite.results.frame import one_line
from robustsuite.results.results import Results
from robustsuite.results.sweeps import Played, attack_name, figures, finished, several_repeats, sort_out

# Outside of what XML 1.0 allows (its production Char), even as a character reference.
_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FAULT: Final = re.compile(r"([A-Za-z_][\w.]*)(?::|$)")
_COUNTED: Final = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def junit(folder: Path, results: Results, judged: Sequence[Verdict] = ()) -> str:
    """The whole file.

    A test suite for each suite among the records, the gates with the first. Points of a curve stand as properties of
    their cell; one that raised is a test case of its own, so that what failed the run is never missing.

    Args:
        folder: The run's folder; the time stamp is when its records were last written.
        results: What was measured.
        judged: Verdicts on the gates that were asked for.
    """
    root = ET.Element("testsuites", {"name": "robustsuite"})
    for suite, cells in sort_out(results.records).items():
        root.append(_suite(suite, cells, judged if not len(root) else (), folder))
    for name in ("tests", *_COUNTED):
        root.set(name, str(sum(int(child.get(name, "0")) for child in root)))
    root.set("time", _seconds(math.fsum(record.seconds for record in results.records)))
    for element in root.iter():
        element.text = element.text and legal(element.text)
        element.attrib.update({name: legal(value) for name, value in element.items()})
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def legal(text: str) -> str:
    r"""Text without the characters that XML 1.0 cannot hold.

    Example:
        >>> legal("a\x00b\x1b[0m")
        'ab[0m'
    """
    return _ILLEGAL.sub("", text)


def _suite(name: str, cells: Sequence[Played], judged: Sequence[Verdict], folder: Path) -> ET.Element:
    element = ET.Element("testsuite", {"name": name})
    # The machine's name is nobody's business in a file that travels; the format wants one.
    element.set("hostname", "localhost")
    when = finished(folder)
    if when is not None:
        element.set("timestamp", when.strftime("%Y-%m-%dT%H:%M:%S"))
    _properties(element, dict(details.provenance([cell.record for cell in cells])))
    cases = [*(_gate(name, verdict) for verdict in judged), *_cases(name, cells)]
    element.extend(cases)
    element.set("tests", str(len(cases)))
    for attribute, tag in _COUNTED.items():
        element.set(attribute, str(sum(case.find(tag) is not None for case in cases)))
    seconds = (record.seconds for cell in cells for record in (cell.record, *cell.points))
    element.set("time", _seconds(math.fsum(seconds)))
    return element


def _gate(suite: str, verdict: Verdict) -> ET.Element:
    case = _case(f"{suite}.gates", verdict.asked, 0.0)
    outcome = verdict.outcome.value
    _properties(case, {"outcome": outcome, "flags": ";".join(verdict.flags)})
    if verdict.outcome is not Outcome.PASSED:
        _fault(case, "failure", outcome, verdict.message, verdict.message)
    return case


def _cases(suite: str, cells: Sequence[Played]) -> Iterator[ET.Element]:
    repeats = several_repeats(cells)
    for cell in cells:
        yield _cell(suite, cell, _name(cell.record, repeats))
        for point in cell.points:
            if point.status == "error":
                yield _cell(suite, Played(point), f"{_name(point, repeats)} at {_place(point)}")


def _place(point: Record) -> str:
    """The ball of a point of a curve; the start of the curve where it was not reached."""
    return point.norm if point.radius is None else f"{point.norm} {point.radius:g}"


def _name(record: Record, repeats: bool) -> str:
    return f"{attack_name(record)} #{record.repeat}" if repeats else attack_name(record)


def _cell(suite: str, cell: Played, name: str) -> ET.Element:
    record = cell.record
    case = _case(f"{suite}.{record.defense}", name, record.seconds)
    _properties(case, _facts(cell))
    reason = one_line(record)
    if record.status == "error":
        kind = _FAULT.match(reason)
        _fault(case, "error", kind.group(1) if kind else "error", reason, record.message)
    elif record.status != "ok":
        ET.SubElement(case, "skipped", {"message": f"{record.status}: {reason}".strip(": ")})
    if figures(record):
        ET.SubElement(case, "system-out").text = figures(record)
    return case


def _case(classname: str, name: str, seconds: float) -> ET.Element:
    return ET.Element("testcase", {"classname": classname, "name": name, "time": _seconds(seconds)})


def _fault(case: ET.Element, tag: str, kind: str, message: str, text: str) -> None:
    ET.SubElement(case, tag, {"type": kind, "message": message}).text = text


def _facts(cell: Played) -> dict[str, str]:
    record = cell.record
    found = {name: str(getattr(record, name)) for name in ("key", "status", "scenario", "knowledge", "norm", "seed")}
    found["radius"] = "" if record.radius is None else f"{record.radius:g}"
    found["flags"] = ";".join(record.flags)
    for name in sorted(record.metrics, key=lambda name: words.place(name, record.meaning)):
        metric = record.metrics[name]
        found[name] = _number(metric.value)
        found[f"{name}.low"], found[f"{name}.high"] = _number(metric.low), _number(metric.high)
        found[f"{name}.n"] = str(metric.n or "")
    for point in cell.points:
        value = point.metrics[point.headline].value if point.headline in point.metrics else None
        found[f"{point.headline} at {_place(point)}"] = _number(value)
    return found


def _properties(element: ET.Element, facts: Mapping[str, Any]) -> None:
    """Those that say something."""
    told = {name: str(value) for name, value in facts.items() if value not in (None, "")}
    holder = ET.SubElement(element, "properties") if told else element
    for name, value in told.items():
        ET.SubElement(holder, "property", {"name": name, "value": value})


def _number(value: float | None) -> str:
    """A figure with all its digits; infinity is `inf`."""
    return "" if value is None else repr(float(value))


def _seconds(value: float) -> str:
    return f"{value:.3f}"
