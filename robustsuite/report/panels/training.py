"""Histories of trainings, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from robustsuite.core.payloads import History
from robustsuite.plugins import register
from robustsuite.report.panels.charts import Chart, Point, Series, axis, draw
from robustsuite.report.pieces import Charts, Exhibit, Section, key
from robustsuite.results import words

_CHARTS: Final = 6  # that are shown


@register.panel("training")
@dataclass(frozen=True, kw_only=True)
class TrainingHistory:
    """One chart per figure of the trainings' first repeat, a line a defence."""

    asks = History
    order = 60

    def __call__(self, exhibits: Sequence[Exhibit[History]]) -> Section | None:
        """One section with a chart for each figure."""
        first: dict[str, Exhibit[History]] = {}
        for exhibit in exhibits:
            if len(exhibit.payload.rows) > 1 and exhibit.record.repeat == 0:
                first.setdefault(exhibit.record.defense, exhibit)
        shown = list(first.values())
        names = dict.fromkeys(name for e in shown for row in e.payload.rows for name in sorted(row))
        charts = [chart for name in names if name != "epoch" if (chart := _chart(name, shown)) is not None]
        lead = "The first repeat of each defence, epoch by epoch."
        return Section("Training", lead, (Charts(tuple(charts[:_CHARTS]), key(shown)),)) if charts else None


def _chart(name: str, shown: Sequence[Exhibit[History]]) -> Chart | None:
    lines = [line for exhibit in shown if (line := _line(exhibit, name)).points]
    if not any(point.y for line in lines for point in line.points):
        return None
    percent = "accuracy" in name
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
