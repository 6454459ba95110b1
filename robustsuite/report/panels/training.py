"""Histories of trainings, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from robustsuite.core.payloads import History
from robustsuite.plugins import register
from robustsuite.report.panels.charts import Chart, Point, Series, axis, draw
from robustsuite.report.pieces import Charts, Exhibit, Grid, Section, key
from robustsuite.results import words
from robustsuite.training.diagnosis import read

_CHARTS: Final = 6  # that are shown
_FIRST: Final = ("train_loss", "validation_loss", "validation_accuracy")
_LAST: Final = ("validation_calibration_error", "validation_f1", "validation_recall", "validation_precision")
_RATES: Final = ("accuracy", "calibration_error", "_f1", "_recall", "_precision")


@register.panel("training")
@dataclass(frozen=True, kw_only=True)
class TrainingHistory:
    """One chart per figure of the trainings' first repeat, a line each; and what went wrong in them."""

    asks = History
    order = 60

    def __call__(self, exhibits: Sequence[Exhibit[History]]) -> Section | None:
        """One section with a chart for each figure, and a table of diagnoses."""
        first: dict[str, Exhibit[History]] = {}
        for exhibit in exhibits:
            if len(exhibit.payload.rows) > 1 and exhibit.record.repeat == 0:
                first.setdefault(exhibit.record.defense, exhibit)
        shown = list[Exhibit[History]]()
        for exhibit in first.values():  # defences that only serve share a training
            if all(exhibit.payload.rows != other.payload.rows for other in shown):
                shown.append(exhibit)
        names = dict.fromkeys(n for e in shown for row in e.payload.rows for n in sorted(row) if n != "epoch")
        charts = [chart for name in sorted(names, key=_place) if (chart := _chart(name, shown)) is not None]
        lead = "The first repeat of each defence, epoch by epoch."
        lead += " A training that several share is drawn for the first of them." if len(shown) < len(first) else ""
        curves = (Charts(tuple(charts[:_CHARTS]), key(shown)),) if charts else ()
        advice = _advice([e for e in exhibits if e.record.repeat == 0])
        return Section("Training", lead, (*curves, *advice)) if curves or advice else None


def _advice(exhibits: Sequence[Exhibit[History]]) -> tuple[str | Grid, ...]:
    """What went wrong in the trainings; nothing where nothing did."""
    found = {(e.record.defense, one.name): one for e in exhibits for one in read(e.record.training)}
    rows = tuple((defense, name, one.seen, one.mend) for (defense, name), one in found.items())
    told = "What went wrong in a training, and what usually helps. It is advice, and changes no verdict."
    return (told, Grid(("defence", "diagnosis", "seen", "what helps"), rows)) if rows else ()


def _place(name: str) -> int:
    """Losses and accuracies before what else was measured, and that before the finer figures."""
    return _FIRST.index(name) - len(_FIRST) if name in _FIRST else 1 + _LAST.index(name) if name in _LAST else 0


def _chart(name: str, shown: Sequence[Exhibit[History]]) -> Chart | None:
    lines = [line for exhibit in shown if (line := _line(exhibit, name)).points]
    if not any(point.y for line in lines for point in line.points):
        return None
    percent = name.endswith(_RATES)
    label = "%" if percent else "loss" if "loss" in name else ""
    y = axis(label, [p.y for s in lines for p in s.points], percent=percent, from_zero=True)
    x = axis("epoch", [p.x for s in lines for p in s.points], from_zero=True)
    return draw(words.title(name), x, y, lines)


def _line(exhibit: Exhibit[History], name: str) -> Series:
    points = []
    for number, row in enumerate(exhibit.payload.rows):
        value = row.get(name, float("nan"))
        if value == value and abs(value) != float("inf"):
            epoch = row.get("epoch", number) + 1
            points.append(Point(epoch, value, label=f"{value:.4g} after epoch {epoch:g}"))
    return Series(exhibit.record.defense, tuple(points), exhibit.look)
