"""Records sorted for machines: the cells of the comparison, and the points of their curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from robustsuite.core.gate import WORST
from robustsuite.evaluation.records import CLEAN, Record

InBall = tuple[str, float | None]
"""A norm and a radius."""
NO_BALL: Final[InBall] = ("", None)


@dataclass(frozen=True)
class Played:
    """One cell of the comparison with what was measured of it at other radii.

    Args:
        record: At the suite's own radius.
        points: The same defence, attack and repeat at the radii of the curve.
    """

    record: Record
    points: list[Record] = field(default_factory=list)


def attack_name(record: Record) -> str:
    """The attack's label, or what people call the cell without one."""
    return record.attack if record.attack != CLEAN else "clean evaluation"


def sort_out(records: Iterable[Record]) -> dict[str, list[Played]]:
    """Suite -> its cells in plan order.

    A point whose cell is missing stands for itself, so that no record is lost.
    """
    suites: dict[str, list[Played]] = {}
    cells: dict[tuple[object, ...], Played] = {}
    for record in sorted(records, key=lambda record: record.order):
        cell = _cell(record)
        if cell in cells:
            cells[cell].points.append(record)
            continue
        played = Played(record)
        if not record.sweep:
            cells[cell] = played
        suites.setdefault(record.suite, []).append(played)
    return suites


def main_records(records: Iterable[Record]) -> list[Record]:
    """Records of the comparison, without points of curves; of several with the same labels the first.

    Args:
        records: In plan order.
    """
    first: dict[tuple[object, ...], Record] = {}
    for record in records:
        if not record.sweep:
            first.setdefault(_cell(record), record)
    return list(first.values())


def _cell(record: Record) -> tuple[object, ...]:
    place = record.suite, record.dataset, record.defense, record.attack, record.scenario, record.repeat
    return (*place, *own_ball(record))


def own_ball(record: Record) -> InBall:
    """Norm and radius of a verdict, which may stand beside those of other balls; labels of attacks tell their own."""
    return (record.norm, record.radius) if record.attack == WORST else NO_BALL


def ball_text(ball: InBall, beside: Iterable[InBall]) -> str:
    """What tells a ball from those beside it: the radius, and the norm where that differs; empty where it is alone.

    Example:
        >>> ball_text(("l2", 0.5), [("l2", 0.5), ("linf", 0.1)]), ball_text(("l2", 0.5), [("l2", 0.5), ("l2", 1.0)])
        ('l2 radius 0.5', 'radius 0.5')
    """
    others = {other for other in beside if other not in (ball, NO_BALL)}
    if not others or ball == NO_BALL:
        return ""
    norm = f"{ball[0]} " if any(other[0] != ball[0] for other in others) else ""
    return f"{norm}radius {ball[1]:.4g}" if ball[1] is not None else f"{norm}no radius"


def several_suites(records: Iterable[Record]) -> bool:
    """Whether a defence is only named with its suite and data set."""
    return len({(record.suite, record.dataset) for record in records}) > 1


def defense_name(record: Record, several: bool) -> str:
    """What people call a record's defence: its label, led by suite and data set where there are several."""
    return f"{record.suite}/{record.dataset}: {record.defense}" if several else record.defense


def several_repeats(cells: Sequence[Played]) -> bool:
    """Whether a cell is only named with its repeat."""
    return len({cell.record.repeat for cell in cells}) > 1


def finished(folder: Path) -> datetime | None:
    """When the last record was written, in UTC; None where there is no file of them."""
    path = folder / "records.jsonl"
    return datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.is_file() else None


def figures(record: Record) -> str:
    """The headline in a sentence's half, such as `robust_accuracy 0.310 [0.282, 0.339] on 1000 samples`; or empty."""
    metric = record.metrics.get(record.headline)
    if metric is None or math.isnan(metric.value):
        return ""
    low, high = metric.low, metric.high
    interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
    return f"{record.headline} {metric.value:.3f}{interval}" + (f" on {metric.n} samples" if metric.n else "")
