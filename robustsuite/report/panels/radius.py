"""Success against radius: points that were played one by one, and whole curves of attacks of minimum norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robustsuite.core import metrics
from robustsuite.core.metrics import FOLLOWED_UP
from robustsuite.core.robust import accuracy, at_radius, is_broken, worst
from robustsuite.evaluation.records import CLEAN, Record
from robustsuite.report.panels.charts import Axis, Chart, Point, Series, axis, draw
from robustsuite.results import words
from robustsuite.results.break_radius import BreakRadii
from robustsuite.results.frame import listed
from robustsuite.results.worst_case import WORST

if TYPE_CHECKING:
    from robustsuite.core.metric import Metric

_SHARES: Final = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # of the suite's radius, where no attack was played at others
_ROBUST: Final = "robust_accuracy"
OWN: Final = _ROBUST + metrics.OWN
_FINE: Final = 80  # steps of a line that is known at every radius
_APART: Final = "with follow-ups"
_VERDICT: Final = f"Lines show the attacks alone. The verdict at the suite's radius stands apart, as “{_APART}”."
_ALONE: Final = (
    "The attack alone, at every radius: its follow-up attacks broke more at the suite's, which the verdict counts."
)


def against_radius(joined: Sequence[Record], folder: Path, look: Mapping[str, int]) -> list[Chart]:
    """One chart per evasion attack of which success is known at several radii: 1 - robust accuracy.

    At radius 0 stands the clean error, because there robust accuracy is clean accuracy. Attacks of minimum norm tell
    their whole curve by the distances in their per-sample files; without a sound file theirs is left out. Success never
    falls as the radius grows, for the same samples. Lines join the attacks' own results only, since follow-up attacks
    are played at the suite's radius alone: the verdict there is a mark of its own.

    Args:
        joined: Records and worst cases of the run, as `worst_case.with_worst_cases` gives them.
        folder: The run's folder.
        look: Number of each defence's colour and shape.
    """
    main = next((record.radius for record in joined if record.radius is not None and not record.sweep), None)
    norm = next((record.norm for record in joined if record.norm), "")
    broken_at = BreakRadii(folder)
    played = _played(joined, _carried(joined, broken_at), [r.attack for r in joined if r.minimum_norm])
    told = _told(joined, broken_at, _radii(joined, main))
    charts = []
    for attack in sorted({**played, **told}, key=lambda name: name != WORST):
        lines = {**played.get(attack, {}), **told.get(attack, {})}
        series = [
            Series(d, (*_origin(joined, d), *points), look[d], through=through)
            for d, (points, through) in lines.items()
        ]
        if attack == WORST:
            series += _verdicts(joined, look)
        x = axis(f"radius ({norm})", [p.x for s in series for p in s.points], from_zero=True)
        y = Axis("attack success, %", 0.0, 1.0, percent=True)
        guide = None if main is None else (main, "suite")
        charts.append(draw(words.attack(attack), x, y, series, guide=guide, note=_note(joined, attack)))
    return charts


def _verdicts(joined: Sequence[Record], look: Mapping[str, int]) -> Iterator[Series]:
    """The verdict of each defence at the suite's radius, where follow-up attacks broke more."""
    for defense, number in look.items():
        verdict = [r for r in joined if r.attack == WORST and r.defense == defense and _ROBUST in r.figures]
        radius = next((record.radius for record in verdict if _broke_more(record, OWN, _ROBUST)), None)
        if radius is not None:
            same = [record.figures[_ROBUST] for record in verdict if record.radius == radius]
            yield Series(f"{defense} {_APART}", (_success(radius, same),), number)


def _broke_more(record: Record, alone: str, followed_up: str) -> bool:
    """Whether follow-up attacks changed a figure of which both are known."""
    figures = record.figures
    known = alone in figures and followed_up in figures
    return known and figures[alone].value != figures[followed_up].value


Drawn = tuple[tuple[Point, ...], tuple[tuple[float, float], ...]]
"""Points, and what the line passes where it is not just them."""


def _radii(joined: Sequence[Record], main: float | None) -> list[float]:
    """Radii at which success is told with an interval: those of other attacks, or some around the suite's."""
    seen = {record.radius for record in joined if record.radius and _ROBUST in listed(record)}
    return sorted(seen if len(seen) > 1 or not main else {share * main for share in _SHARES})


def _played(
    joined: Sequence[Record], carried: Mapping[str, Metric], closest: Sequence[str]
) -> dict[str, dict[str, Drawn]]:
    """Attack -> defence -> points, of attacks that were played at several radii."""
    found: dict[str, dict[str, dict[float, list[Metric]]]] = {}
    first: set[tuple[object, ...]] = set()
    for record in joined:
        metric = record.figures.get(OWN if record.attack == WORST else _ROBUST)
        # A curve may visit the suite's own radius again, on fewer samples: the first record counts.
        cell = (record.attack, record.defense, record.radius, record.repeat)
        if metric is None or record.radius is None or record.attack in closest or cell in first:
            continue
        first.add(cell)
        radii = found.setdefault(record.attack, {}).setdefault(record.defense, {})
        radii.setdefault(record.radius, []).append(carried.get(record.key, metric))
    several = {a: d for a, d in found.items() if any(len(radii) > 1 for radii in d.values())}
    return {
        attack: {d: (tuple(_success(r, same) for r, same in sorted(radii.items())), ()) for d, radii in of.items()}
        for attack, of in several.items()
    }


def _carried(records: Sequence[Record], broken_at: BreakRadii) -> dict[str, Metric]:
    """By key: robust accuracy of points of curves, once samples are out that were broken at a smaller radius."""
    curves: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        if record.meaning.joined and record.radius is not None and not record.minimum_norm:
            place = (record.suite, record.dataset, record.attack, record.defense, record.repeat, record.norm)
            curves.setdefault(place, []).append(record)
    found = {}
    for curve in curves.values():
        for record in curve if len(curve) > 1 else ():
            radius, radii = record.radius or 0.0, broken_at.radii(record)
            before = broken_at.within((r for r in curve if (r.radius or 0.0) < radius), radius)
            alone = at_radius(radii, radius)
            if record.sweep and any(alone[i] for i in before & alone.keys()):
                found[record.key] = accuracy(worst([alone], before))
    return found


def _told(records: Sequence[Record], broken_at: BreakRadii, radii: Sequence[float]) -> dict[str, dict[str, Drawn]]:
    """Attack -> defence -> points and line, of attacks of minimum norm."""
    repeats: dict[str, dict[str, list[Mapping[int, float]]]] = {}
    for record in records:
        least = broken_at.radii(record) if record.minimum_norm else {}
        if least:
            repeats.setdefault(record.attack, {}).setdefault(record.defense, []).append(least)
    return {a: {d: _whole(runs, radii) for d, runs in of.items()} for a, of in repeats.items()}


def _whole(runs: Sequence[Mapping[int, float]], radii: Sequence[float]) -> Drawn:
    points = tuple(_success(r, [accuracy(at_radius(run, r)) for run in runs]) for r in radii if r > 0)
    grid = sorted({*radii, *(max(radii) * step / _FINE for step in range(_FINE + 1))})
    line = tuple((r, sum(_broken(run, r) for run in runs) / len(runs)) for r in grid)
    return points, line


def _broken(radii: Mapping[int, float], radius: float) -> float:
    """The share of samples that are broken at a radius."""
    return sum(is_broken(least, radius) for least in radii.values()) / len(radii)


def _origin(joined: Sequence[Record], defense: str) -> Iterator[Point]:
    judged = (r.figures for r in joined if r.defense == defense and r.attack == CLEAN)
    clean = [figures["clean_accuracy"] for figures in judged if "clean_accuracy" in figures]
    if clean:
        yield _success(0.0, clean)


def _success(radius: float, robust: Sequence[Metric]) -> Point:
    from robustsuite.core.intervals import over_repeats

    merged = over_repeats(robust)
    value = 1 - merged.value
    low = None if merged.high is None else 1 - merged.high
    high = None if merged.low is None else 1 - merged.low
    told = f"{words.figure(value, 'rate')} % {words.interval(low, high, 'rate')} at radius {radius:g}, n = {merged.n}"
    return Point(radius, value, low, high, told)


def _note(joined: Sequence[Record], attack: str) -> str:
    """What must be said where follow-up attacks broke more than a line shows."""
    names = (OWN, _ROBUST) if attack == WORST else (_ROBUST, _ROBUST + FOLLOWED_UP)
    more = any(record.attack == attack and _broke_more(record, *names) for record in joined)
    return "" if not more else _VERDICT if attack == WORST else _ALONE
