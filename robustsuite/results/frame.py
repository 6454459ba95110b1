"""Records to one tidy table: a row for each metric of each record, in plan order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from robustsuite.evaluation.records import Record
from robustsuite.results import words

if TYPE_CHECKING:
    import pandas as pd

    from robustsuite.core.metric import Metric

COLUMNS: Final = (
    *("suite", "dataset", "model", "defense", "attack", "scenario", "knowledge", "norm", "radius", "repeat"),
    *("metric", "value", "low", "high", "n", "unit", "better", "status", "flags", "message", "seconds", "key"),
)
_NUMBERS: Final = ("radius", "value", "low", "high", "seconds")
_COUNTS: Final = ("repeat", "n")


def tidy(records: Iterable[Record]) -> pd.DataFrame:
    """The tidy table of a run.

    A record without a result has one row with an empty value and its status, so that nothing is silently absent and
    what is missing is never 0. The first row of a record is its headline; counted passes stand behind its metrics.

    Args:
        records: As `Results.joined` gives them.

    Returns:
        A table with the columns `COLUMNS`; text columns hold "" where there is nothing, number columns a missing value.
    """
    import pandas as pd

    rows = [row for record in records for row in _rows(record)]
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
    figures = record.figures
    for name in listed(record):
        yield {**common, "metric": name, **_numbers(figures.get(name))}


def listed(record: Record) -> list[str]:
    """Names of a record's figures: the headline first (also where it has no value), then as its game declares them."""
    figures, meaning = record.figures, record.meaning
    names = sorted(figures, key=lambda name: words.place(name, meaning))
    headed = record.headline in figures or record.headline or not figures
    return list(dict.fromkeys([record.headline, *names] if headed else names))


def _numbers(metric: Metric | None) -> dict[str, Any]:
    if metric is None:
        return {"value": None, "low": None, "high": None, "n": None, "unit": "", "better": ""}
    return {**asdict(metric), "n": metric.n or None}


def one_line(record: Record) -> str:
    """The record's message in one line; of a traceback the last line, which names the error."""
    lines = [line.strip() for line in record.message.splitlines() if line.strip()]
    return " ".join(lines[-1:] if record.status == "error" else lines)
