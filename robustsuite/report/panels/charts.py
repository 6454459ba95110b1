"""Charts as geometry: numbers to positions, so that the template only draws.

Plotly would add 4.5 MB of JavaScript to every page; these charts take a few kilobytes, follow the page's colours in
light and dark, print, and are read out by screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 380
HEIGHT: Final = 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 14, 44  # room for ticks and labels
LOOKS: Final = 8  # colours that the style sheet knows
#: Outlines around (0, 0), so that series differ without colour too.
SHAPES: Final = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.8L4.6 3.4H-4.6z",
    "M0-5L5 0L0 5L-5 0z",
    "M0 4.8L4.6-3.4H-4.6z",
)


@dataclass(frozen=True)
class Point:
    """One measured point with its interval and what it is called when pointed at."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one name; `look` numbers its colour and shape.

    The line joins the points, or passes `through` positions of its own where more is known than is marked.
    """

    name: str
    points: tuple[Point, ...]
    look: int
    through: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Axis:
    """One axis: its label, its ends, whether it shows percent or is logarithmic."""

    label: str
    low: float
    high: float
    percent: bool = False
    log: bool = False

    def place(self, value: float) -> float:
        """Position in [0, 1]."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return (min(max(at, low), high) - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values within the ends, with their texts."""
        values = _decades(self.low, self.high) if self.log else _round_values(self.low, self.high)
        return [(v, f"{100 * v:g}" if self.percent else f"{v:,.6g}") for v in values]


@dataclass(frozen=True)
class Mark:
    """A drawn point: position, whisker ends, outline and tooltip."""

    x: float
    y: float
    top: float | None
    bottom: float | None
    label: str


@dataclass(frozen=True)
class Line:
    """A drawn series."""

    name: str
    colour: int
    shape: str
    path: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Chart:
    """A drawn chart: everything in user units of a `WIDTH` x `HEIGHT` box."""

    title: str
    summary: str
    x: Axis
    y: Axis
    ticks_x: tuple[tuple[float, str], ...]
    ticks_y: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]
    guide: float | None
    guide_label: str
    note: str = ""
    diagonal: str = ""
    box: tuple[float, float, float, float] = (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)


def draw(
    title: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    *,
    joined: bool = True,
    guide: tuple[float, str] | None = None,
    note: str = "",
    diagonal: bool = False,
) -> Chart:
    """Place everything.

    Args:
        title: What the chart shows.
        x: Horizontal axis.
        y: Vertical axis.
        series: What to draw; those without points are left out.
        joined: Whether points of a series are joined by a line.
        guide: A vertical line and its label.
        note: What else must be known to read it.
        diagonal: Whether to draw where both axes have the same value.
    """
    lines = tuple(_line(s, x, y, joined) for s in series if s.points)
    told = "; ".join(f"{s.name}: {', '.join(p.label for p in s.points)}" for s in series if s.points)
    return Chart(
        title=title,
        summary=told,
        x=x,
        y=y,
        ticks_x=tuple((_across(x, value), text) for value, text in x.ticks()),
        ticks_y=tuple((_down(y, value), text) for value, text in y.ticks()),
        lines=lines,
        guide=None if guide is None else _across(x, guide[0]),
        guide_label="" if guide is None else guide[1],
        note=note,
        diagonal=_diagonal(x, y) if diagonal else "",
    )


def axis(label: str, values: Sequence[float], *, percent: bool = False, from_zero: bool = False) -> Axis:
    """An axis that holds these values with a little room; logarithmic where positive values span two decades."""
    low, high = min(values), max(values)
    if percent:
        # From the ten percent below the least value, so that a crowd near 100 % comes apart.
        return Axis(label, 0.0 if from_zero else max(0.0, math.floor(low * 10 - 1e-9) / 10), 1.0, percent=True)
    if low > 0 and high / low > 99.9:
        return Axis(f"{label} (log scale)".strip(), low / 1.3, high * 1.3, log=True)
    low = min(low, 0.0) if from_zero or low < 0.4 * high else low
    room = (high - low or abs(high) or 1.0) * 0.06
    return Axis(label, low - (0 if low == 0 else room), high + room)


def _line(series: Series, x: Axis, y: Axis, joined: bool) -> Line:
    marks = tuple(
        Mark(
            _across(x, p.x),
            _down(y, p.y),
            None if p.high is None else _down(y, p.high),
            None if p.low is None else _down(y, p.low),
            f"{series.name}: {p.label}",
        )
        for p in series.points
    )
    way = [(_across(x, a), _down(y, b)) for a, b in series.through] or [(m.x, m.y) for m in marks]
    path = "M" + "L".join(f"{a:g} {b:g}" for a, b in way) if joined and len(way) > 1 else ""
    return Line(series.name, series.look % LOOKS, SHAPES[series.look % len(SHAPES)], path, marks)


def _diagonal(x: Axis, y: Axis) -> str:
    ends = max(x.low, y.low), min(x.high, y.high)
    return "M" + "L".join(f"{_across(x, end):g} {_down(y, end):g}" for end in ends)


def _across(x: Axis, value: float) -> float:
    return round(_LEFT + x.place(value) * (WIDTH - _LEFT - _RIGHT), 1)


def _down(y: Axis, value: float) -> float:
    return round(HEIGHT - _BOTTOM - y.place(value) * (HEIGHT - _TOP - _BOTTOM), 1)


def _round_values(low: float, high: float) -> list[float]:
    """About five multiples of 1, 2, 2.5 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [10.0**p for p in powers if low <= 10.0**p <= high]
    return values or [low, high]
