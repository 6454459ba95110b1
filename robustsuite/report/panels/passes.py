"""Success against passes: what share of samples was broken after how many forward and backward passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from robustsuite.core.errors import RequestError
from robustsuite.evaluation.records import Record, load_samples
from robustsuite.report.panels.charts import Axis, Chart, Point, Series, draw
from robustsuite.results import words

_FEW: Final = 10  # passes up to which an attack is no search, and its curve no curve
_FINE: Final = 80  # steps of a line
_MARKS: Final = (1.0, 2.0, 5.0)  # of each power of ten, where an interval is drawn

PassesToBreak = list[float]
"""Passes after which each judged sample was broken: 0 where it was wrong at once, infinite where it is robust."""


def against_passes(records: Sequence[Record], folder: Path, look: Mapping[str, int]) -> list[Chart]:
    """One chart per white-box evasion attack of many passes, at the suite's radius.

    Records without a sound per-sample file, or whose attack's passes cannot be told apart by sample, are left out.

    Args:
        records: Records of the run, in plan order.
        folder: The run's folder.
        look: Number of each defence's colour and shape.
    """
    runs: dict[str, dict[str, dict[int, Record]]] = {}
    for record in records:
        if record.meaning.joined and record.knowledge == "white-box" and not record.sweep:
            runs.setdefault(record.attack, {}).setdefault(record.defense, {}).setdefault(record.repeat, record)
    charts = []
    for attack, defended in runs.items():
        read = {d: [broken for r in same.values() if (broken := _read(r, folder))] for d, same in defended.items()}
        last = max((most for some in read.values() for most, _ in some), default=0)
        if last > _FEW:
            series = [_series(d, [broken for _, broken in some], last, look[d]) for d, some in read.items() if some]
            x = Axis("passes a sample (log scale)", 1.0, last * 1.1, log=True)
            y = Axis("broken, %", 0.0, 1.0, percent=True)
            charts.append(draw(attack, x, y, series))
    return charts


def _read(record: Record, folder: Path) -> tuple[int, PassesToBreak] | None:
    """Most passes of a sample, and after how many each was broken."""
    try:
        columns = load_samples(folder, record) if record.status in ("ok", "inconclusive") else {}
    except RequestError:
        return None
    if any(name not in columns for name in ("clean_correct", "robust", "passes")) or len(columns["passes"]) == 0:
        return None
    passes = columns["passes"].double().masked_fill(columns["robust"].bool(), math.inf)
    return int(columns["passes"].max()), passes.masked_fill(~columns["clean_correct"].bool(), 0).tolist()


def _series(defense: str, runs: Sequence[PassesToBreak], last: int, look: int) -> Series:
    marks = [m * 10.0**power for power in range(len(str(last))) for m in _MARKS if m * 10**power < last]
    points = tuple(_point(passes, runs) for passes in (*marks, float(last)))
    grid = sorted({*marks, *(float(last) ** (step / _FINE) for step in range(_FINE + 1)), float(last)})
    line = tuple((x, sum(sum(broken <= x for broken in run) / len(run) for run in runs) / len(runs)) for x in grid)
    return Series(defense, points, look, through=line)


def _point(passes: float, runs: Sequence[PassesToBreak]) -> Point:
    import torch

    from robustsuite.core.intervals import over_repeats, rate

    share = over_repeats([rate(torch.tensor([broken <= passes for broken in run]), "lower") for run in runs])
    told = f"{words.figure(share.value, 'rate')} % {words.interval(share.low, share.high, 'rate')}"
    return Point(passes, share.value, share.low, share.high, f"{told} after {passes:,.0f} passes, n = {share.n}")
