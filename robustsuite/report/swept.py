"""Records to sweeps: points that were played one by one, and whole curves of attacks of minimum norm.

Success never falls as the radius grows, for the same samples. Lines show the attacks' own results only, since follow-up
attacks are played at the suite's radius alone: the verdict there is a sweep of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from robustsuite.core import metrics
from robustsuite.core.intervals import over_repeats
from robustsuite.core.metric import Metric
from robustsuite.core.metrics import FOLLOWED_UP
from robustsuite.core.payloads import Sweep
from robustsuite.core.robust import accuracy, at_radius, is_broken, worst
from robustsuite.evaluation.records import RADIUS, Record
from robustsuite.results import words
from robustsuite.results.break_radius import BreakRadii
from robustsuite.results.frame import listed
from robustsuite.results.worst_case import WORST

_SHARES: Final = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # of the suite's radius, where no attack was played at others
_ROBUST: Final = "robust_accuracy"
OWN: Final = _ROBUST + metrics.OWN
_SUCCESS: Final = "attack success"
_FINE: Final = 80  # steps of a line that is known at every radius
_CLEAN: Final = "none"  # the label of the clean evaluation
_APART: Final = "with follow-ups"
_VERDICT: Final = f"Lines show the attacks alone. The verdict at the suite's radius stands apart, as “{_APART}”."
_ALONE: Final = (
    "The attack alone, at every radius: its follow-up attacks broke more at the suite's, which the verdict counts."
)

_Radii = Mapping[float, Sequence[Metric]]
_Line = tuple[tuple[float, float], ...]


def swept(joined: Sequence[Record], folder: Path) -> Iterator[tuple[Record, Sweep]]:
    """Sweeps over every repeat of a defence under an attack, each with the first record that it rests on.

    At radius 0 stands the clean error, because there robust accuracy is clean accuracy. Attacks of minimum norm tell
    their whole curve by the distances in their per-sample files; without a sound file theirs is left out.

    Args:
        joined: Records and worst cases of the run, as `worst_case.with_worst_cases` gives them.
        folder: The run's folder.
    """
    played = [record for record in joined if RADIUS not in _at(record, "attack")]
    yield from _against_radius(played, BreakRadii(folder))
    yield from _against_rules(joined)
    for side in ("attack", "defense"):
        yield from _against_variants(joined, side)


def _against_radius(joined: Sequence[Record], broken_at: BreakRadii) -> Iterator[tuple[Record, Sweep]]:
    main = next((record.radius for record in joined if record.radius is not None and not record.sweep), None)
    over = f"{RADIUS} ({next((record.norm for record in joined if record.norm), '')})"
    curves: dict[tuple[str, str], tuple[_Radii, _Line]] = {
        place: (radii, ())
        for place, radii in _played(
            joined, _carried(joined, broken_at), [r.attack for r in joined if r.minimum_norm]
        ).items()
    }
    curves |= _told(joined, broken_at, _radii(joined, main))
    first = {(record.attack, record.defense): record for record in reversed(joined)}
    # Those of the verdict first.
    for attack, defense in sorted(curves, key=lambda place: place[0] != WORST):
        radii, through = curves[attack, defense]
        points = tuple((radius, _success(same)) for radius, same in (*_origin(joined, defense), *radii.items()))
        note = _note(joined, attack)
        yield first[attack, defense], Sweep(_SUCCESS, over, points, through, own=main, note=note)
    if any(attack == WORST for attack, _ in curves):
        for record, radius, same in _verdicts(joined):
            yield record, Sweep(_SUCCESS, over, ((radius, _success(same)),), own=main, apart=_APART)


def _against_rules(joined: Sequence[Record]) -> Iterator[tuple[Record, Sweep]]:
    """The headline against any other rule over which a game was swept, at the suite's own value too."""
    for rule in dict.fromkeys(record.sweep for record in joined if record.sweep):
        cells = {(r.attack, r.defense) for r in joined if r.sweep == rule}
        found: dict[tuple[str, str, str], dict[float, dict[int, Metric]]] = {}
        first: dict[tuple[str, str, str], Record] = {}
        for record in joined:
            value = _value(record, rule)
            told = rule != RADIUS or _ROBUST not in record.figures
            if (record.attack, record.defense) in cells and record.sweep in ("", rule) and told and value is not None:
                place = (record.attack, record.defense, record.headline)
                if record.headline in record.figures:
                    first.setdefault(place, record)
                    repeats = found.setdefault(place, {}).setdefault(value, {})
                    repeats.setdefault(record.repeat, record.figures[record.headline])
        for place, values in found.items():
            if len(values) > 1:
                points = tuple((at, over_repeats([*same.values()])) for at, same in sorted(values.items()))
                own = _value(first[place], rule) if not first[place].sweep else None
                yield (
                    first[place],
                    Sweep(words.title(place[2], first[place].meaning), rule.replace("_", " "), points, own=own),
                )


def _at(record: Record, side: str) -> Mapping[str, object]:
    """What was chosen of each swept option of its attack or its defence."""
    at: Mapping[str, object] = record.variant.get(side, {}).get("at", {})
    return at


def _against_variants(joined: Sequence[Record], side: str) -> Iterator[tuple[Record, Sweep]]:
    """Each headline against each number that lists of the suite sweep, of attacks or of defences.

    A line holds one value of everything else: of other swept options, of the norm, and of the other side's label. The
    record that it goes with bears the label that all variants of the sweep share.
    """
    lines: dict[tuple[object, ...], tuple[Record, str, str, dict[float, list[Metric]]]] = {}
    for record in joined:
        for over, value in _at(record, side).items() if not record.sweep else ():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            shared = _shared(record, side, over)
            ball = (record.norm, None if over == RADIUS else record.radius)
            for metric in record.headlines:
                if metric in record.figures:
                    place = (record.suite, record.dataset, shared.attack, shared.defense, over, ball, metric)
                    *_, values = lines.setdefault(place, (shared, over, metric, {}))
                    values.setdefault(float(value), []).append(record.figures[metric])
    for record, over, metric, values in lines.values():
        if len(values) > 1:
            points = tuple((at, over_repeats(same)) for at, same in sorted(values.items()))
            told = over.replace("_", " ") + (f" ({record.norm})" if over == RADIUS and record.norm else "")
            yield record, Sweep(words.title(metric, record.meaning), told, points)


def _shared(record: Record, side: str, over: str) -> Record:
    """The same under the label that a line's variants share, with what is chosen of other options."""
    others = [f"{name}={_text(value)}" for name, value in _at(record, side).items() if name != over]
    label = str(record.variant[side]["of"]) + (f"({','.join(others)})" if others else "")
    if side == "attack":
        return dataclasses.replace(record, attack=label)
    ball = f"{record.norm} radius {record.radius:g}" if record.attack == WORST and record.radius is not None else ""
    attack = f"{words.attack(WORST)} ({ball})" if ball and "attack" in record.variant else record.attack
    return dataclasses.replace(record, attack=attack, defense=label)


def _text(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _value(record: Record, rule: str) -> float | None:
    """What a record was played at."""
    value = record.radius if rule == RADIUS else record.rules.get(rule)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _verdicts(joined: Sequence[Record]) -> Iterator[tuple[Record, float, list[Metric]]]:
    """The verdict of each defence at the suite's radius, where follow-up attacks broke more."""
    for defense in dict.fromkeys(record.defense for record in joined):
        verdict = [r for r in joined if r.attack == WORST and r.defense == defense and _ROBUST in r.figures]
        more = next((record for record in verdict if _broke_more(record, OWN, _ROBUST)), None)
        if more is not None and more.radius is not None:
            yield more, more.radius, [record.figures[_ROBUST] for record in verdict if record.radius == more.radius]


def _broke_more(record: Record, alone: str, followed_up: str) -> bool:
    """Whether follow-up attacks changed a figure of which both are known."""
    figures = record.figures
    known = alone in figures and followed_up in figures
    return known and figures[alone].value != figures[followed_up].value


def _radii(joined: Sequence[Record], main: float | None) -> list[float]:
    """Radii at which success is told with an interval: those of other attacks, or some around the suite's."""
    seen = {record.radius for record in joined if record.radius and _ROBUST in listed(record)}
    return sorted(seen if len(seen) > 1 or not main else {share * main for share in _SHARES})


def _played(
    joined: Sequence[Record], carried: Mapping[str, Metric], closest: Sequence[str]
) -> dict[tuple[str, str], _Radii]:
    """Attack and defence -> radius -> robust accuracies, of attacks that were played at several radii."""
    found: dict[tuple[str, str], dict[float, list[Metric]]] = {}
    first: set[tuple[object, ...]] = set()
    for record in joined:
        metric = record.figures.get(OWN if record.attack == WORST else _ROBUST)
        # A curve may visit the suite's own radius again, on fewer samples: the first record counts.
        cell = (record.attack, record.defense, record.radius, record.repeat)
        if metric is None or record.radius is None or record.attack in closest or cell in first:
            continue
        first.add(cell)
        radii = found.setdefault((record.attack, record.defense), {})
        radii.setdefault(record.radius, []).append(carried.get(record.key, metric))
    several = {attack for (attack, _), radii in found.items() if len(radii) > 1}
    return {place: dict(sorted(radii.items())) for place, radii in found.items() if place[0] in several}


def _carried(records: Sequence[Record], broken_at: BreakRadii) -> dict[str, Metric]:
    """By key: robust accuracy of points of curves, once samples are out that were broken at a smaller radius."""
    curves: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        if _ROBUST in record.metrics and record.radius is not None and not record.minimum_norm:
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


def _told(
    records: Sequence[Record], broken_at: BreakRadii, radii: Sequence[float]
) -> dict[tuple[str, str], tuple[_Radii, _Line]]:
    """Attack and defence -> robust accuracies and the line of success, of attacks of minimum norm."""
    repeats: dict[tuple[str, str], list[Mapping[int, float]]] = {}
    for record in records:
        least = broken_at.radii(record) if record.minimum_norm else {}
        if least:
            repeats.setdefault((record.attack, record.defense), []).append(least)
    return {place: _whole(runs, radii) for place, runs in repeats.items()}


def _whole(runs: Sequence[Mapping[int, float]], radii: Sequence[float]) -> tuple[_Radii, _Line]:
    points = {r: [accuracy(at_radius(run, r)) for run in runs] for r in radii if r > 0}
    grid = sorted({*radii, *(max(radii) * step / _FINE for step in range(_FINE + 1))})
    return points, tuple((r, sum(_broken(run, r) for run in runs) / len(runs)) for r in grid)


def _broken(radii: Mapping[int, float], radius: float) -> float:
    """The share of samples that are broken at a radius."""
    return sum(is_broken(least, radius) for least in radii.values()) / len(radii)


def _origin(joined: Sequence[Record], defense: str) -> Iterator[tuple[float, list[Metric]]]:
    """What nobody attacked, at radius 0."""
    judged = (r.figures for r in joined if r.defense == defense and r.attack == _CLEAN)
    clean = [figures["clean_accuracy"] for figures in judged if "clean_accuracy" in figures]
    if clean:
        yield 0.0, clean


def _success(robust: Sequence[Metric]) -> Metric:
    """The complement of robust accuracy."""
    m = over_repeats(robust)
    low, high = (None if end is None else 1 - end for end in (m.high, m.low))
    return Metric(1 - m.value, m.n, low, high, m.unit, "lower")


def _note(joined: Sequence[Record], attack: str) -> str:
    """What must be said where follow-up attacks broke more than a line shows."""
    names = (OWN, _ROBUST) if attack == WORST else (_ROBUST, _ROBUST + FOLLOWED_UP)
    more = any(record.attack == attack and _broke_more(record, *names) for record in joined)
    return "" if not more else _VERDICT if attack == WORST else _ALONE
