"""Rows of a comparison: each figure of each cell, old against new, tested where samples can be paired."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from robustsuite.paired import crossed, mcnemar, paired_interval
from robustsuite.protocol import Metric
from robustsuite.report.changes import Change, Row
from robustsuite.report.flags import believable, concerning
from robustsuite.report.frame import one_line
from robustsuite.report.pairs import EVASION, MEASURED, ROBUST, Outcomes, Place, Run, Unpaired, order, pair
from robustsuite.report.worst_case import WORST
from robustsuite.statistics import over_repeats

if TYPE_CHECKING:
    from robustsuite.benchmark.records import Record

GUARANTEES: Final = ("epsilon", "delta")  # accounted, not estimated: no test is needed to see that one got weaker
_SLACK: Final = 0.01  # relative change of a guarantee that is rounding
_SIDES: Final = ("higher", "lower")
Joined = tuple["Record", "Record"]


def rows(old: Run, new: Run) -> list[Row]:
    """Every row, tested or not; the verdicts of those that are tested are still open.

    Args:
        old: The run before.
        new: The run that is held against it.
    """
    places = order(old.cells, new.cells)
    found = [(float(i), row) for i, place in enumerate(places) for row in _cell(place, old, new)]
    found += _worst_cases(places, old, new)
    return [row for _, row in sorted(found, key=lambda item: item[0])]


def _cell(place: Place, old: Run, new: Run) -> Iterator[Row]:
    before, after = old.cells.get(place, {}), new.cells.get(place, {})
    common = [repeat for repeat in before if repeat in after]
    if not common:
        yield from _one_sided(place, before, after, old, new)
        return
    for repeat in common:
        if before[repeat].status in MEASURED and after[repeat].status == "error":
            yield _broken(place, before[repeat], after[repeat])
    joined = [(before[r], after[r]) for r in common if {before[r].status, after[r].status} <= set(MEASURED)]
    if joined:
        yield from _figures(place, joined, old, new, _unmatched(before, after, len(joined)))
    elif after[common[0]].status != "error" or before[common[0]].status not in MEASURED:
        yield _unmeasured(place, before[common[0]], after[common[0]])


def _figures(place: Place, joined: Sequence[Joined], old: Run, new: Run, told: str) -> Iterator[Row]:
    first, last = joined[0]
    reason = _incomparable(first, last)
    if reason:
        yield Row(*place, first.headline, verdict=Change.NOT_COMPARABLE, message=reason)
        return
    changed = _settings(first, last)
    told = _sentence(told, changed)
    for metric in dict.fromkeys([first.headline, *(name for both in joined for side in both for name in side.metrics)]):
        if metric in GUARANTEES:
            yield _guarantee(place, metric, joined)
        elif metric:
            row = _figure(place, metric, joined, old, new, told)
            # Another attack may be a weaker one: no improvement is believed that it shows.
            yield replace(row, withheld=(row.withheld[0], row.withheld[1] or bool(changed)))


def _figure(place: Place, metric: str, joined: Sequence[Joined], old: Run, new: Run, told: str) -> Row:
    blank = _blank(place, metric, joined, told)
    counted = all(old.counts(a, metric) or new.counts(b, metric) for a, b in joined)
    if blank.old is None or blank.new is None or not counted or blank.better not in _SIDES:
        return _beside(blank, joined)
    try:
        return tested(blank, [old.outcomes(a, metric) for a, _ in joined], [new.outcomes(b, metric) for _, b in joined])
    except Unpaired as reason:
        return replace(blank, verdict=Change.NOT_COMPARABLE, message=_sentence(str(reason), told))


def tested(blank: Row, old: Sequence[Outcomes], new: Sequence[Outcomes]) -> Row:
    """Fill in what the common samples say; one entry per repeat on either side.

    Raises:
        Unpaired: They cannot be paired.
    """
    pairs = pair(old, new)
    repeats, n = pairs.old.shape
    gained, lost = int((pairs.new & ~pairs.old).sum()), int((pairs.old & ~pairs.new).sum())
    worse, improved = (lost, gained) if blank.better == "higher" else (gained, lost)
    if repeats == 1:
        low, high = paired_interval(gained, lost, n)
        p = mcnemar(worse, improved)
    else:
        found = crossed(pairs.old, pairs.new)
        low, high, p = found.low, found.high, found.p
    some = f"on the {n} samples of both runs (of {pairs.sizes[0]} and {pairs.sizes[1]})" if n < max(pairs.sizes) else ""
    return replace(
        blank,
        repeats=repeats,
        n=n,
        old=float(pairs.old.mean()),
        new=float(pairs.new.mean()),
        difference=(gained - lost) / (repeats * n),
        low=low,
        high=high,
        worse=worse,
        improved=improved,
        p=p,
        message=_sentence(some, blank.message),
    )


def _blank(place: Place, metric: str, joined: Sequence[Joined], told: str = "") -> Row:
    """What records say of a figure without looking at samples."""
    sides = [[side.metrics[metric] for side in run if metric in side.metrics] for run in zip(*joined, strict=True)]
    known: Mapping[str, Any] = next((figures[0] for figures in sides if figures), {})
    old, new = (sum(float(f["value"]) for f in figures) / len(figures) if figures else None for figures in sides)
    difference = None if old is None or new is None else new - old
    before, after = (_doubts(run, metric) for run in zip(*joined, strict=True))
    return Row(
        *place,
        metric,
        better=str(known.get("better") or ""),
        unit=str(known.get("unit") or ""),
        repeats=len(joined),
        old=old,
        new=new,
        difference=difference,
        flags=tuple(code for code in after if code not in before),
        flags_gone=tuple(code for code in before if code not in after),
        withheld=(_withheld(before, joined, 0), _withheld(after, joined, 1)),
        message=told,
    )


def _doubts(records: Iterable[Record], metric: str) -> tuple[str, ...]:
    codes = (code for record in records for code in concerning(record.flags, metric, record.metrics))
    return tuple(dict.fromkeys(codes))


def _withheld(codes: Iterable[str], joined: Sequence[Joined], side: int) -> bool:
    return not believable(codes) or any(both[side].status == "inconclusive" for both in joined)


def _beside(blank: Row, joined: Sequence[Joined]) -> Row:
    """A figure without outcomes per sample: a word where its intervals lie apart."""
    if blank.old is None or blank.new is None:
        return replace(blank, message=_sentence("only in the new run" if blank.old is None else "only in the old run"))
    word = ""
    if blank.better in _SIDES and _apart(blank.metric, joined):
        rose = blank.new > blank.old
        word = f"{'better' if rose == (blank.better == 'higher') else 'worse'}, the intervals lie apart"
    return replace(blank, message=_sentence(word))


def _apart(metric: str, joined: Sequence[Joined]) -> bool:
    old, new = (
        over_repeats([Metric(**r.metrics[metric]) for r in run if metric in r.metrics])
        for run in zip(*joined, strict=True)
    )
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return False
    return old.high < new.low or new.high < old.low


def _guarantee(place: Place, metric: str, joined: Sequence[Joined]) -> Row:
    """An accounted bound: no sample speaks for it, and no test is needed."""
    blank = _blank(place, metric, joined)
    if blank.old is None:
        return replace(blank, message="only in the new run")
    if blank.new is None:
        return replace(blank, verdict=Change.REGRESSION, message="the new run has no such guarantee")
    if not believable(blank.flags):
        return replace(blank, verdict=Change.REGRESSION, message="the new guarantee does not hold")
    weaker = blank.new > blank.old * (1 + _SLACK)
    stronger = blank.new < blank.old * (1 - _SLACK) and not blank.withheld[1]
    verdict = Change.REGRESSION if weaker else Change.IMPROVEMENT if stronger else Change.NO_WORSE
    return replace(blank, verdict=verdict, message="accounted, so not tested")


def _worst_cases(places: Sequence[Place], old: Run, new: Run) -> Iterator[tuple[float, Row]]:
    """One row per defence and ball: under the attacks that both runs judged, and no other."""
    groups: dict[tuple[Any, ...], list[tuple[int, Place]]] = {}
    for position, place in enumerate(places):
        if place.scenario == EVASION and place in old.cells and place in new.cells:
            groups.setdefault((place.defense, place.norm, place.radius), []).append((position, place))
    for (defense, norm, radius), members in groups.items():
        row = _worst_case(Place(defense, WORST, EVASION, norm, radius), [place for _, place in members], old, new)
        if row is not None:
            yield members[-1][0] + 0.5, row


def _worst_case(name: Place, places: Sequence[Place], old: Run, new: Run) -> Row | None:
    shared = {p: _repeats(old.cells[p], new.cells[p]) for p in places}
    kept = [place for place, repeats in shared.items() if repeats]
    repeats = sorted(set.intersection(*(shared[place] for place in kept))) if kept else []
    if len(kept) < 2 or not repeats:
        return None
    joined = [(old.cells[p][r], new.cells[p][r]) for r in repeats for p in kept]
    judged = {p.attack for run in (old, new) for p in run.cells if _same_ball(p, name)}
    told = f"over {', '.join(p.attack for p in kept)} only, which both runs judged" if len(kept) < len(judged) else ""
    blank = replace(_blank(name, ROBUST, joined, told), repeats=len(repeats))
    try:
        return tested(
            blank,
            [old.standing(old.cells[p][r] for p in kept) for r in repeats],
            [new.standing(new.cells[p][r] for p in kept) for r in repeats],
        )
    except Unpaired as reason:
        # Means over attacks are no worst case.
        return replace(
            blank, old=None, new=None, difference=None, verdict=Change.NOT_COMPARABLE, message=_sentence(str(reason))
        )


def _same_ball(place: Place, name: Place) -> bool:
    return place._replace(attack=name.attack) == name


def _repeats(before: Mapping[int, Record], after: Mapping[int, Record]) -> set[int]:
    """Repeats that both sides measured under the same rules."""
    return {
        repeat
        for repeat in before
        if repeat in after
        and {before[repeat].status, after[repeat].status} <= set(MEASURED)
        and not _incomparable(before[repeat], after[repeat])
    }


def _one_sided(
    place: Place, before: Mapping[int, Record], after: Mapping[int, Record], old: Run, new: Run
) -> Iterator[Row]:
    """A cell that only one run has; where the other has it in another ball, that is said once."""
    own, other = (old, new) if before else (new, old)
    elsewhere = place._replace(norm=other.ball[0], radius=other.ball[1])
    if place.scenario == EVASION and elsewhere in other.cells and elsewhere not in own.cells:
        if before:
            told = f"other threat: {_ball(place)}, now {_ball(elsewhere)}"
            yield Row(*place, next(iter(before.values())).headline, verdict=Change.NOT_COMPARABLE, message=told)
        return
    record = next(iter((before or after).values()))
    verdict = Change.ONLY_OLD if before else Change.ONLY_NEW
    told = "" if not (before and after) else "no repeat is in both"
    if record.status not in MEASURED:
        told = _sentence(told, f"{record.status.replace('_', ' ')}: {one_line(record)}")
    row = replace(_blank(place, record.headline, [(record, record)]), repeats=0, difference=None, flags=())
    gone = {"new": None} if before else {"old": None}
    yield replace(row, verdict=verdict, message=told, **gone)  # type: ignore[arg-type]  # either name is optional


def _broken(place: Place, old: Record, new: Record) -> Row:
    row = replace(_blank(place, old.headline, [(old, old)]), new=None, difference=None)
    where = f" in repeat {new.repeat}" if new.repeat else ""
    return replace(row, verdict=Change.REGRESSION, message=f"the cell fails now{where}: {one_line(new)}")


def _unmeasured(place: Place, old: Record, new: Record) -> Row:
    was, now = (record.status.replace("_", " ") for record in (old, new))
    verdict = Change.NOT_COMPARABLE
    if old.status in MEASURED:
        verdict = Change.ONLY_OLD
    elif new.status in MEASURED:
        verdict = Change.ONLY_NEW
    told = was if was == now else f"{was}, now {now}"
    reason = next((one_line(r) for r in (new, old) if r.status not in MEASURED and one_line(r)), "")
    return Row(*place, old.headline or new.headline, verdict=verdict, message=_sentence(told, reason))


def _unmatched(before: Mapping[int, Record], after: Mapping[int, Record], joined: int) -> str:
    repeats = {*before, *after}
    return f"{joined} of {len(repeats)} repeats were measured in both" if joined < len(repeats) else ""


def _incomparable(old: Record, new: Record) -> str:
    if old.dataset != new.dataset:
        return f"other data set: {old.dataset}, now {new.dataset}"
    if old.knowledge != new.knowledge:
        return f"other threat: {old.knowledge or 'no knowledge'}, now {new.knowledge or 'no knowledge'}"
    return ""


def _settings(old: Record, new: Record) -> str:
    """What the attack was set to, where it was set to something else."""
    changed = [
        f"{name} {old.attack_parameters.get(name, 'unset')}, now {new.attack_parameters.get(name, 'unset')}"
        for name in dict.fromkeys([*old.attack_parameters, *new.attack_parameters])
        if old.attack_parameters.get(name) != new.attack_parameters.get(name)
    ]
    return f"the attack differs ({'; '.join(changed)})" if changed else ""


def _ball(place: Place) -> str:
    return place.norm if place.radius is None else f"{place.norm} {place.radius:g}"


def _sentence(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
