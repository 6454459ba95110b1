"""Rows of a comparison: each figure of each cell, old against new, tested where samples can be paired."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from robustsuite.core.flags import believable, concerning
from robustsuite.core.intervals import over_repeats
from robustsuite.core.paired import crossed, mcnemar, paired_interval
from robustsuite.evaluation.rules import other_rules
from robustsuite.results.changes import Change, Gap, Row
from robustsuite.results.frame import one_line
from robustsuite.results.pairing import RATES, Outcomes, Place, Run, Unpaired, gap, measured, pair

if TYPE_CHECKING:
    from robustsuite.evaluation.records import Record

_SLACK: Final = 0.01  # relative change of a guarantee that is rounding
_SIDES: Final = ("higher", "lower")
Joined = tuple["Record", "Record"]


def cell(place: Place, old: Run, new: Run, metrics: Collection[str] = ()) -> Iterator[Row]:
    """Every row of one cell, tested or not; the verdicts of those that are tested are still open.

    Args:
        place: The cell, which at least one of the two has.
        old: The run before.
        new: The run that is held against it.
        metrics: Names of the figures that are asked for; empty for all. A cell that is gone has a row for each of them.
    """
    before, after = old.cells.get(place, {}), new.cells.get(place, {})
    common = [repeat for repeat in before if repeat in after]
    if not common:
        yield from _one_sided(place, before, after, old, new, metrics)
        return
    for repeat in common:
        if before[repeat].measured and after[repeat].status == "error":
            yield from _broken(place, before[repeat], after[repeat], metrics)
    joined = [(before[r], after[r]) for r in common if before[r].measured and after[r].measured]
    lost = gap(before, after)
    if joined:
        for row in _figures(place, joined, old, new, _unmatched(before, after, len(joined)), metrics):
            yield replace(row, gap=row.gap | lost) if row.old is not None else row
    elif lost or after[common[0]].status != "error" or not before[common[0]].measured:
        yield from _unmeasured(place, before, after, lost, metrics)


def _named(record: Record, metrics: Collection[str]) -> list[str]:
    """Under which figures a whole cell is told of: those asked for that it has, or its headline."""
    return [name for name in record.metrics if name in metrics] if metrics else [record.headline]


def _figures(
    place: Place, joined: Sequence[Joined], old: Run, new: Run, told: str, metrics: Collection[str]
) -> Iterator[Row]:
    first, _ = joined[0]
    reason = next(filter(None, (incomparable(*both) for both in joined)), "")
    if reason:
        for metric in _named(first, metrics):
            blank = replace(blank_row(place, metric, joined), difference=None, flags=(), flags_gone=())
            yield replace(blank, verdict=Change.NOT_COMPARABLE, gap=Gap.INCOMPARABLE, message=reason)
        return
    for metric in dict.fromkeys([first.headline, *(name for both in joined for side in both for name in side.metrics)]):
        if metric:
            accounted = any(side.meaning.spec(metric).accounted for side in joined[0])
            row = _guarantee(place, metric, joined) if accounted else _figure(place, metric, joined, old, new, told)
            yield replace(row, gap=row.gap | _lost(metric, joined) | _newly_withheld(row))


def _newly_withheld(row: Row) -> Gap:
    return Gap.WITHHELD if row.withheld == (False, True) and row.old is not None else Gap.NONE


def _lost(metric: str, joined: Sequence[Joined]) -> Gap:
    """Whether a rate, or what a cell is about, was measured in a repeat and is not now; costs and distances may be."""
    for before, after in joined:
        figure = before.metrics.get(metric)
        counts = figure is not None and (metric == before.headline or figure.unit in RATES)
        if counts and metric not in after.metrics:
            return Gap.MISSING
    return Gap.NONE


def _figure(place: Place, metric: str, joined: Sequence[Joined], old: Run, new: Run, told: str) -> Row:
    blank = blank_row(place, metric, joined, told)
    counted = all(old.counts(a, metric) or new.counts(b, metric) for a, b in joined)
    if blank.old is None or blank.new is None or not counted or blank.better not in _SIDES:
        return _beside(blank, joined)
    try:
        return tested(blank, [old.outcomes(a, metric) for a, _ in joined], [new.outcomes(b, metric) for _, b in joined])
    except Unpaired as reason:
        told = sentence(str(reason), told)
        return replace(blank, verdict=Change.NOT_COMPARABLE, gap=Gap.INCOMPARABLE, message=told)


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
        found, (low, high) = None, paired_interval(gained, lost, n)
        p = p_weights = mcnemar(worse, improved)
    else:
        found = crossed(pairs.old, pairs.new)
        low, high, p, p_weights = found.low, found.high, found.p, found.p_weights
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
        p_weights=p_weights,
        found=found,
        message=sentence(some, blank.message),
    )


def blank_row(place: Place, metric: str, joined: Sequence[Joined], told: str = "") -> Row:
    """What records say of a figure without looking at samples.

    Args:
        place: The cell.
        metric: The figure.
        joined: Old and new record of every repeat.
        told: What has to be said beside.
    """
    sides = [[side.metrics[metric] for side in run if metric in side.metrics] for run in zip(*joined, strict=True)]
    known = next((figures[0] for figures in sides if figures), None)
    old, new = (sum(f.value for f in figures) / len(figures) if figures else None for figures in sides)
    difference = None if old is None or new is None else new - old
    before, after = (_doubts(run, metric) for run in zip(*joined, strict=True))
    return Row(
        *place,
        metric,
        better="" if known is None else known.better,
        unit="" if known is None else known.unit,
        repeats=len(joined),
        old=old,
        new=new,
        difference=difference,
        flags=tuple(code for code in after if code not in before),
        flags_gone=tuple(code for code in before if code not in after),
        withheld=(_withheld(before, joined, 0), _withheld(after, joined, 1)),
        message=told,
        words=joined[0][0].meaning.spec(metric).words,
    )


def _doubts(records: Iterable[Record], metric: str) -> tuple[str, ...]:
    codes = (code for record in records for code in concerning(record.flags, metric, record.metrics))
    return tuple(dict.fromkeys(codes))


def _withheld(codes: Iterable[str], joined: Sequence[Joined], side: int) -> bool:
    return not believable(codes) or any(both[side].status == "inconclusive" for both in joined)


def _beside(blank: Row, joined: Sequence[Joined]) -> Row:
    """A figure without outcomes per sample: a word where its intervals lie apart."""
    if blank.old is None or blank.new is None:
        if blank.old is None:
            return replace(blank, message="only in the new run")
        verdict = Change.ONLY_OLD if _lost(blank.metric, joined) else blank.verdict
        return replace(blank, verdict=verdict, message="only in the old run")
    word = ""
    if blank.better in _SIDES and _apart(blank.metric, joined):
        rose = blank.new > blank.old
        word = f"{'better' if rose == (blank.better == 'higher') else 'worse'}, the intervals lie apart"
    return replace(blank, message=sentence(word))


def _apart(metric: str, joined: Sequence[Joined]) -> bool:
    old, new = (
        over_repeats([r.metrics[metric] for r in run if metric in r.metrics]) for run in zip(*joined, strict=True)
    )
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return False
    return old.high < new.low or new.high < old.low


def _guarantee(place: Place, metric: str, joined: Sequence[Joined]) -> Row:
    """An accounted bound: no sample speaks for it, and no test is needed."""
    blank = blank_row(place, metric, joined)
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


def _one_sided(
    place: Place,
    before: Mapping[int, Record],
    after: Mapping[int, Record],
    old: Run,
    new: Run,
    metrics: Collection[str],
) -> Iterator[Row]:
    """A cell that only one run has; where the other has the attack in another ball, that is said once."""
    own, other = (old, new) if before else (new, old)
    label = (place.defense, place.attack, place.scenario)
    elsewhere = [ball for ball in other.balls.get(label, ()) if Place(*label, *ball) not in own.cells]
    if elsewhere and not (before and after):
        if before:
            told = f"other threat: {_ball(place)}, now {_ball(Place(*label, *elsewhere[0]))}"
            known = next((r for r in before.values() if measured(r)), None)
            lost = Gap.INCOMPARABLE if known is not None else Gap.NONE
            like = known or next(iter(before.values()))
            for metric in _named(like, metrics):
                called = like.meaning.spec(metric).words
                yield Row(*place, metric, verdict=Change.NOT_COMPARABLE, gap=lost, message=told, words=called)
        return
    side = before or after
    record = next((r for r in side.values() if measured(r)), next(iter(side.values())))
    told = "" if not (before and after) else "no repeat is in both"
    if not record.measured:
        told = sentence(told, f"{record.status.replace('_', ' ')}: {one_line(record)}")
    gone = {"new": None, "verdict": Change.ONLY_OLD} if before else {"old": None, "verdict": Change.ONLY_NEW}
    for metric in _named(record, metrics):
        row = replace(blank_row(place, metric, [(record, record)]), repeats=0, difference=None, flags=(), message=told)
        yield replace(row, gap=gap(before, after), **gone)  # type: ignore[arg-type]  # either name is optional


def _broken(place: Place, old: Record, new: Record, metrics: Collection[str]) -> Iterator[Row]:
    where = f" in repeat {new.repeat}" if new.repeat else ""
    told = f"the cell fails now{where}: {one_line(new)}"
    for metric in _named(old, metrics):
        row = replace(blank_row(place, metric, [(old, old)]), new=None, difference=None)
        yield replace(row, verdict=Change.REGRESSION, message=told)


def _unmeasured(
    place: Place, before: Mapping[int, Record], after: Mapping[int, Record], lost: Gap, metrics: Collection[str]
) -> Iterator[Row]:
    """A cell without a repeat that both runs measured."""
    common = [repeat for repeat in before if repeat in after]
    repeat = next((r for r in common if measured(before[r]) and after[r].status != "error"), common[0])
    old, new = before[repeat], after[repeat]
    was, now = (record.status.replace("_", " ") for record in (old, new))
    verdict = Change.NOT_COMPARABLE
    if old.measured or lost:
        verdict = Change.ONLY_OLD
    elif new.measured:
        verdict = Change.ONLY_NEW
    told = was if was == now else f"{was}, now {now}"
    reason = next((one_line(r) for r in (new, old) if not r.measured and one_line(r)), "")
    known = next((r for r in (*before.values(), *after.values()) if measured(r)), old)
    for metric in _named(known, metrics):
        called = known.meaning.spec(metric).words
        yield Row(*place, metric, verdict=verdict, gap=lost, message=sentence(told, reason), words=called)


def _unmatched(before: Mapping[int, Record], after: Mapping[int, Record], joined: int) -> str:
    repeats = {*before, *after}
    return f"{joined} of {len(repeats)} repeats were measured in both" if joined < len(repeats) else ""


def incomparable(old: Record, new: Record) -> str:
    """Why two records of one cell are of different games, or empty.

    Args:
        old: Measured before.
        new: Measured now.
    """
    if old.dataset != new.dataset:
        return f"other data set: {old.dataset}, now {new.dataset}"
    before, after = (data.get("digest") for data in (old.data, new.data))
    # More or fewer of the same samples are told apart by their ids.
    if before and after and before != after and old.data.get("n") == new.data.get("n"):
        return "other samples: as many as before, with other inputs or labels"
    if old.knowledge != new.knowledge:
        return f"other threat: {old.knowledge or 'no knowledge'}, now {new.knowledge or 'no knowledge'}"
    return other_rules(old, new)


def _ball(place: Place) -> str:
    return place.norm if place.radius is None else f"{place.norm} {place.radius:g}"


def sentence(*parts: str) -> str:
    """Those parts that say something."""
    return "; ".join(part for part in parts if part)
