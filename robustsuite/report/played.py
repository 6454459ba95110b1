"""Records sorted for machines: the cells of the comparison, and the points of their curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from robustsuite.benchmark.records import Record


@dataclass(frozen=True)
class Played:
    """One cell of the comparison with what was measured of it at other radii.

    Args:
        record: At the suite's own radius.
        points: The same defence, attack and repeat at the radii of the curve.
    """

    record: Record
    points: list[Record] = field(default_factory=list)

    @property
    def attack(self) -> str:
        """The attack's label, or what people call the cell without one."""
        return attack_name(self.record)


def attack_name(record: Record) -> str:
    """The attack's label, or what people call the cell without one."""
    return record.attack if record.scenario != "utility" else "clean evaluation"


def sort_out(records: Iterable[Record]) -> dict[str, list[Played]]:
    """Suite -> its cells in plan order.

    The first radius of a suite in plan order is its own, as in the comparison table; a point whose cell is missing
    stands for itself, so that no record is lost.
    """
    suites: dict[str, list[Played]] = {}
    main: dict[tuple[str, str], float] = {}
    cells: dict[tuple[object, ...], Played] = {}
    for record in sorted(records, key=lambda record: record.order):
        place = (record.suite, record.dataset)
        own = record.radius is None or record.radius == main.setdefault(place, record.radius)
        cell = (*place, record.defense, record.attack, record.scenario, record.repeat)
        if cell in cells:
            cells[cell].points.append(record)
            continue
        played = Played(record)
        if own:
            cells[cell] = played
        suites.setdefault(record.suite, []).append(played)
    return suites


def main_records(records: Iterable[Record]) -> list[Record]:
    """Records at each suite's own radius (the first in plan order), without the points of its curve.

    Args:
        records: In plan order.
    """
    main: dict[tuple[str, str], float] = {}
    first: dict[tuple[object, ...], Record] = {}
    for record in records:
        suite = (record.suite, record.dataset)
        if record.radius is None or record.radius == main.setdefault(suite, record.radius):
            # A curve may visit the main radius again, on fewer samples: the first record counts.
            first.setdefault((*suite, record.defense, record.attack, record.scenario, record.repeat), record)
    return list(first.values())


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
