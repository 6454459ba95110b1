"""Figures against what was varied: success against radius, and whatever else was swept over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from robustsuite.core.payloads import Sweep
from robustsuite.evaluation.records import CLEAN
from robustsuite.plugins import register
from robustsuite.report.panels.charts import Axis, Chart, Point, Series, axis, draw
from robustsuite.report.pieces import Charts, Exhibit, Section, key
from robustsuite.results import words

Swept = Exhibit[Sweep]


@register.panel("sweeps")
@dataclass(frozen=True, kw_only=True)
class Sweeps:
    """One chart per attack with a line per defence, a section for each figure and each quantity that was varied."""

    asks = Sweep
    order = 10

    def __call__(self, exhibits: Sequence[Swept]) -> list[Section]:
        """A section for each figure and quantity."""
        kinds: dict[tuple[str, str], list[Swept]] = {}
        for exhibit in exhibits:
            if any(math.isfinite(figure.value) for _, figure in exhibit.payload.points):
                kinds.setdefault((exhibit.payload.title, exhibit.payload.over), []).append(exhibit)
        drawn = [_section(same) for same in kinds.values()]
        varied = [section.link for section in drawn]
        # What several figures are drawn against is no name for one of them.
        return [replace(one, link="") if varied.count(one.link) > 1 else one for one in drawn]


def _section(same: Sequence[Swept]) -> Section:
    sweep = same[0].payload
    over, better = sweep.over.partition(" (")[0], sweep.points[0][1].better
    word = f"{better.capitalize()} is better for the defender; bars" if better else "Bars"
    attacks: dict[str, list[Swept]] = {}
    for exhibit in same:
        attacks.setdefault(exhibit.record.attack, []).append(exhibit)
    return Section(
        f"{_capital(sweep.title)} against {over}",
        f"{word} are 95 % confidence intervals.",
        (Charts(tuple(_chart(attack, lines) for attack, lines in attacks.items()), key(same)),),
        link=_capital(over),
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _chart(attack: str, lines: Sequence[Swept]) -> Chart:
    series = [
        Series(f"{e.record.defense} {e.payload.apart}".strip(), tuple(_points(e.payload)), e.look, e.payload.through)
        for e in lines
    ]
    points, sweep = [point for line in series for point in line.points], lines[0].payload
    x = axis(sweep.over, [point.x for point in points], from_zero=True)
    guide = None if sweep.own is None else (sweep.own, "suite")
    note = next((e.payload.note for e in lines if e.payload.note), "")
    return draw(
        "clean evaluation" if attack == CLEAN else words.attack(attack),
        x,
        _up(sweep, points),
        series,
        guide=guide,
        note=note,
    )


def _up(sweep: Sweep, points: Sequence[Point]) -> Axis:
    unit = sweep.points[0][1].unit
    if unit == "rate":
        return Axis(f"{sweep.title}, %", 0.0, 1.0, percent=True)
    label = f"{sweep.title}, {words.suffix(unit)}".rstrip(", ")
    return axis(label, [end for p in points for end in (p.low, p.y, p.high) if end is not None])


def _points(sweep: Sweep) -> Iterator[Point]:
    over = sweep.over.partition(" (")[0]
    for at, m in ((at, m) for at, m in sweep.points if math.isfinite(m.value)):
        figure = f"{words.figure(m.value, m.unit)} {words.suffix(m.unit)}".strip()
        told = f"{figure} {words.interval(m.low, m.high, m.unit)}".strip() + f" at {over} {at:g}"
        yield Point(at, m.value, m.low, m.high, f"{told}, n = {m.n}" if m.n else told)
