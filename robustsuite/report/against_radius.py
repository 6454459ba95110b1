"""Success against radius: points that were played one by one, and whole curves of attacks of minimum norm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robustsuite.benchmark.records import Record
from robustsuite.metrics import FOLLOWED_UP
from robustsuite.report import words
from robustsuite.report.charts import Axis, Chart, Point, Series, axis, draw
from robustsuite.report.falls import Falls, fallen
from robustsuite.report.worst_case import OWN, WORST

if TYPE_CHECKING:
    from robustsuite.metric import Metric

Row = Mapping[str, Any]
_SHARES: Final = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # of the suite's radius, where no attack was played at others
_FINE: Final = 80  # steps of a line that is known at every radius
_APART: Final = "with follow-ups"
_VERDICT: Final = f"Lines show the attacks alone. The verdict at the suite's radius stands apart, as “{_APART}”."
_ALONE: Final = (
    "The attack alone, at every radius: its follow-up attacks broke more at the suite's, which the verdict counts."
)


def against_radius(
    rows: Sequence[Row], records: Sequence[Record], folder: Path, look: Mapping[str, int]
) -> list[Chart]:
    """One chart per evasion attack of which success is known at several radii: 1 - robust accuracy.

    At radius 0 stands the clean error, because there robust accuracy is clean accuracy. Attacks of minimum norm tell
    their whole curve by the distances in their per-sample files; without a sound file theirs is left out. Success never
    falls as the radius grows, for the same samples. Lines join the attacks' own results only, since follow-up attacks
    are played at the suite's radius alone: the verdict there is a mark of its own.

    Args:
        rows: Of the tidy frame.
        records: Records of the run, in plan order.
        folder: The run's folder.
        look: Number of each defence's colour and shape.
    """
    main = next((row["radius"] for row in rows if row["radius"] is not None), None)
    norm = next((row["norm"] for row in rows if row["norm"]), "")
    falls = Falls(folder)
    played = _played(rows, _carried(records, falls, main), [r.attack for r in records if r.closest])
    told = _told(records, falls, _radii(rows, main))
    charts = []
    for attack in sorted({**played, **told}, key=lambda name: name != WORST):
        lines = {**played.get(attack, {}), **told.get(attack, {})}
        series = [
            Series(d, (*_origin(rows, d), *points), look[d], through=through) for d, (points, through) in lines.items()
        ]
        if attack == WORST:
            series += _verdicts(rows, look)
        x = axis(f"radius ({norm})", [p.x for s in series for p in s.points], from_zero=True)
        y = Axis("attack success, %", 0.0, 1.0, percent=True)
        guide = None if main is None else (main, "suite")
        charts.append(draw(words.attack(attack), x, y, series, guide=guide, note=_note(rows, attack)))
    return charts


def _verdicts(rows: Sequence[Row], look: Mapping[str, int]) -> Iterator[Series]:
    """The verdict of each defence at the suite's radius, where follow-up attacks broke more."""
    for defense, number in look.items():
        of = [row for row in rows if row["attack"] == WORST and row["defense"] == defense and row["value"] is not None]
        verdict, own = ([row for row in of if row["metric"] == name] for name in ("robust_accuracy", OWN))
        alone = {row["key"]: row["value"] for row in own}
        lower = [row for row in verdict if row["value"] != alone.get(row["key"], row["value"])]
        if lower:
            same = [row for row in verdict if row["radius"] == lower[0]["radius"]]
            point = _success(lower[0]["radius"], [_metric(row) for row in same])
            yield Series(f"{defense} {_APART}", (point,), number)


Drawn = tuple[tuple[Point, ...], tuple[tuple[float, float], ...]]
"""Points, and what the line passes where it is not just them."""


def _radii(rows: Sequence[Row], main: float | None) -> list[float]:
    """Radii at which success is told with an interval: those of other attacks, or some around the suite's."""
    seen = {row["radius"] for row in rows if row["metric"] == "robust_accuracy" and row["radius"]}
    return sorted(seen if len(seen) > 1 or not main else {share * main for share in _SHARES})


def _played(rows: Sequence[Row], carried: Mapping[str, Metric], closest: Sequence[str]) -> dict[str, dict[str, Drawn]]:
    """Attack -> defence -> points, of attacks that were played at several radii."""
    found: dict[str, dict[str, dict[float, list[Metric]]]] = {}
    first: dict[tuple[Any, ...], str] = {}
    for row in rows:
        alone = OWN if row["attack"] == WORST else "robust_accuracy"
        judged = row["metric"] == alone and row["value"] is not None and row["radius"] is not None
        if not judged or row["attack"] in closest:
            continue
        # A curve may visit the suite's own radius again, on fewer samples: the first record counts.
        cell = (row["attack"], row["defense"], row["radius"], row["repeat"])
        if first.setdefault(cell, row["key"]) == row["key"]:
            radii = found.setdefault(row["attack"], {}).setdefault(row["defense"], {})
            radii.setdefault(row["radius"], []).append(carried.get(row["key"]) or _metric(row))
    several = {a: d for a, d in found.items() if any(len(radii) > 1 for radii in d.values())}
    return {
        attack: {d: (tuple(_success(r, same) for r, same in sorted(radii.items())), ()) for d, radii in of.items()}
        for attack, of in several.items()
    }


def _carried(records: Sequence[Record], falls: Falls, main: float | None) -> dict[str, Metric]:
    """By key: robust accuracy of points of curves, once samples are out that fell at a smaller radius."""
    curves: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        if record.scenario == "evasion" and record.radius is not None and not record.closest:
            place = (record.suite, record.dataset, record.attack, record.defense, record.repeat, record.norm)
            curves.setdefault(place, []).append(record)
    found = {}
    for curve in curves.values():
        for record in curve if len(curve) > 1 else ():
            radius, radii = record.radius or 0.0, falls.radii(record)
            before = falls.within((r for r in curve if (r.radius or 0.0) < radius), radius)
            if radius != main and any(not fallen(radii[i], radius) for i in before & radii.keys()):
                found[record.key] = _standing(fallen(least, radius) or i in before for i, least in radii.items())
    return found


def _told(records: Sequence[Record], falls: Falls, radii: Sequence[float]) -> dict[str, dict[str, Drawn]]:
    """Attack -> defence -> points and line, of attacks of minimum norm."""
    repeats: dict[str, dict[str, list[list[float]]]] = {}
    for record in records:
        least = list(falls.radii(record).values()) if record.closest else []
        if least:
            repeats.setdefault(record.attack, {}).setdefault(record.defense, []).append(least)
    return {a: {d: _whole(runs, radii) for d, runs in of.items()} for a, of in repeats.items()}


def _whole(runs: Sequence[Sequence[float]], radii: Sequence[float]) -> Drawn:
    points = tuple(_success(r, [_standing(fallen(x, r) for x in run) for run in runs]) for r in radii if r > 0)
    grid = sorted({*radii, *(max(radii) * step / _FINE for step in range(_FINE + 1))})
    line = tuple((r, sum(sum(fallen(x, r) for x in run) / len(run) for run in runs) / len(runs)) for r in grid)
    return points, line


def _standing(fell: Iterable[bool]) -> Metric:
    import torch

    from robustsuite.statistics import rate

    return rate(~torch.tensor(list(fell), dtype=torch.bool), "higher")


def _origin(rows: Sequence[Row], defense: str) -> Iterator[Point]:
    clean = [
        _metric(row)
        for row in rows
        if row["defense"] == defense and row["scenario"] == "utility" and row["metric"] == "clean_accuracy"
        if row["value"] is not None
    ]
    if clean:
        yield _success(0.0, clean)


def _metric(row: Row) -> Metric:
    from robustsuite.metric import Metric

    return Metric(row["value"], int(row["n"] or 0), row["low"], row["high"], "rate", "higher")


def _success(radius: float, robust: Sequence[Metric]) -> Point:
    from robustsuite.statistics import over_repeats

    merged = over_repeats(robust)
    value = 1 - merged.value
    low = None if merged.high is None else 1 - merged.high
    high = None if merged.low is None else 1 - merged.low
    told = f"{words.figure(value, 'rate')} % {words.interval(low, high, 'rate')} at radius {radius:g}, n = {merged.n}"
    return Point(radius, value, low, high, told)


def _note(rows: Sequence[Row], attack: str) -> str:
    """What must be said where follow-up attacks broke more than a line shows."""
    alone, followed = (
        (OWN, "robust_accuracy") if attack == WORST else ("robust_accuracy", "robust_accuracy" + FOLLOWED_UP)
    )
    own = {row["key"]: row["value"] for row in rows if row["attack"] == attack and row["metric"] == alone}
    more = any(
        row["attack"] == attack and row["metric"] == followed and row["value"] != own.get(row["key"], row["value"])
        for row in rows
    )
    return "" if not more else _VERDICT if attack == WORST else _ALONE
