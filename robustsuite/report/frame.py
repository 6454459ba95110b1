"""Records to one tidy table: a row for each metric of each record, in plan order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robustsuite.benchmark.records import Record
from robustsuite.report import words
from robustsuite.report.worst_case import worst_cases

if TYPE_CHECKING:
    import pandas as pd

COLUMNS: Final = (
    *("suite", "dataset", "model", "defense", "attack", "scenario", "knowledge", "norm", "radius", "repeat"),
    *("metric", "value", "low", "high", "n", "unit", "better", "status", "flags", "message", "seconds", "key"),
)
_MEASURED: Final = ("ok", "inconclusive")
_NUMBERS: Final = ("radius", "value", "low", "high", "seconds")
_COUNTS: Final = ("repeat", "n")


def tidy(records: Iterable[Record], folder: Path | str | None = None) -> pd.DataFrame:
    """The tidy table of a run, with the verdict over all attacks where the per-sample files are at hand.

    A record without a result has one row with an empty value and its status, so that nothing is silently absent and
    what is missing is never 0. The first row of a record is its headline; counted passes stand behind its metrics.

    Args:
        records: Records in any order.
        folder: The run's folder with its per-sample files; None leaves out the worst case.

    Returns:
        A table with the columns `COLUMNS`; text columns hold "" where there is nothing, number columns a missing value.
    """
    import pandas as pd

    ordered = sorted(records, key=lambda record: record.order)
    if folder is not None:
        # A derived record has the order of the last one that it joins, and a stable sort leaves it behind that one.
        ordered = sorted([*ordered, *worst_cases(ordered, Path(folder))], key=lambda record: record.order)
    rows = [row for record in ordered for row in _rows(record)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    for name in COLUMNS:
        kind = "float64" if name in _NUMBERS else "Int64" if name in _COUNTS else "str"
        frame[name] = frame[name].astype(kind)  # type: ignore[call-overload]  # the stubs want a literal
    return frame


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    common = {
        **{name: getattr(record, name) for name in COLUMNS if hasattr(record, name)},
        "flags": ";".join(record.flags),
        "message": one_line(record),
        # A derived record took no time of its own.
        "seconds": record.seconds if record.seconds else None,
    }
    empty = {"metric": record.headline, "value": None, "low": None, "high": None, "n": None, "unit": "", "better": ""}
    figures = {**record.metrics, **_passes(record)} if record.status in _MEASURED else {}
    if record.headline not in figures and (record.headline or not figures):
        yield {**common, **empty}
    for name in sorted(figures, key=lambda name: _place(name, record.headline)):
        yield {**common, **_figure(name, figures[name])}


def _place(name: str, headline: str) -> tuple[bool, int, str]:
    """The headline first, then the metrics in the order in which they are documented, then the others by name."""
    return name != headline, words.ORDER.get(name, len(words.ORDER)), name


def _passes(record: Record) -> dict[str, Mapping[str, Any]]:
    return {name: {"value": count, "unit": "passes"} for name, count in record.cost.items() if count}


def _figure(name: str, metric: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {end: _number(metric.get(end)) for end in ("value", "low", "high")}
    words_of = {end: str(metric.get(end) or "") for end in ("unit", "better")}
    return {"metric": name, **numbers, "n": metric.get("n") or None, **words_of}


def _number(value: Any) -> float | None:
    """A finite or infinite number; records write what is not finite as text."""
    number = math.nan if value is None else float(value)
    return None if math.isnan(number) else number


def one_line(record: Record) -> str:
    """The record's message in one line; of a traceback the last line, which names the error."""
    lines = [line.strip() for line in record.message.splitlines() if line.strip()]
    return " ".join(lines[-1:] if record.status == "error" else lines)
