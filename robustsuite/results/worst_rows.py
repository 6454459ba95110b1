"""Rows of a comparison for the worst case over attacks, which is joined here over what both runs judged."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from robustsuite.results.changes import Change, Gap, Row
from robustsuite.results.differences import blank_row, cell, incomparable, sentence, tested
from robustsuite.results.pairing import Place, Run, Unpaired, gap, measured, order
from robustsuite.results.worst_case import WORST

if TYPE_CHECKING:
    from robustsuite.evaluation.records import Record

_RULES = "rules"  # of the follow-up attacks, as a digest


def rows(old: Run, new: Run, metrics: Collection[str] = (), *, allow_missing: bool = False) -> list[Row]:
    """Every row of every cell, and the worst cases behind the last cell that each joins.

    Args:
        old: The run before.
        new: The run that is held against it.
        metrics: Names of the figures that are asked for; empty for all.
        allow_missing: Whether a worst case over fewer attacks than before is compared over those.
    """
    places = order(old.cells, new.cells)
    found = [(float(i), row) for i, place in enumerate(places) for row in cell(place, old, new, metrics)]
    found += _worst_cases(places, old, new, allow_missing)
    return [row for _, row in sorted(found, key=lambda item: item[0]) if not metrics or row.metric in metrics]


def _worst_cases(places: Sequence[Place], old: Run, new: Run, allow_missing: bool) -> Iterator[tuple[float, Row]]:
    """One row per defence, game whose attacks are joined, and ball."""
    groups: dict[Place, list[tuple[int, Place]]] = {}
    metrics: dict[Place, str] = {}
    for position, place in enumerate(places):
        joined = _joined(place, old, new)
        if joined:
            name = place._replace(attack=WORST)
            groups.setdefault(name, []).append((position, place))
            metrics[name] = joined
    for name, members in groups.items():
        group = _Group(name, metrics[name], [place for _, place in members], old, new)
        row = group.row(allow_missing)
        if row is not None:
            yield max(position for position, place in members if place in group.kept) + 0.5, row


def _joined(place: Place, *runs: Run) -> str:
    """The rate by which the attacks of this cell's game are joined, as its records say; empty where they are not."""
    records = (record for run in runs for record in run.cells.get(place, {}).values())
    return next((record.meaning.joined for record in records if record.meaning.joined), "")


class _Group:
    """The attacks of one game on one defence in one ball."""

    def __init__(self, name: Place, metric: str, places: Sequence[Place], old: Run, new: Run) -> None:
        self._name, self._metric, self._places, self._old, self._new = name, metric, places, old, new
        shared = {place: self._shared(place) for place in places}
        self.kept = [place for place in places if shared[place]]
        self._repeats = sorted(set.intersection(*(shared[place] for place in self.kept))) if self.kept else []

    def row(self, allow_missing: bool) -> Row | None:
        """Under the attacks that both runs judged, and no other; None where there is nothing to join."""
        if not self._repeats or not self._joins():
            return None
        joined = [(self._old.cells[p][r], self._new.cells[p][r]) for r in self._repeats for p in self.kept]
        names = ", ".join(place.attack for place in self.kept)
        told = f"over {names} only, which both runs judged" if len(self.kept) < len(self._judged()) else ""
        blank = replace(blank_row(self._name, self._metric, joined, told), repeats=len(self._repeats))
        lost = self._lost()
        if lost and not (allow_missing and lost is Gap.MISSING):
            without = [place.attack for place in self._places if self._is_lost(place)]
            return _refused(blank, lost, f"fewer attacks or repeats than before: {', '.join(without)}")
        if any((a.review.get(_RULES) or "") != (b.review.get(_RULES) or "") for a, b in joined):
            return _refused(blank, Gap.INCOMPARABLE, "followed up by other rules")
        withheld = Gap.WITHHELD if blank.withheld == (False, True) else Gap.NONE
        try:
            return replace(tested(blank, self._side(self._old), self._side(self._new)), gap=lost | withheld)
        except Unpaired as reason:
            return _refused(blank, Gap.INCOMPARABLE, str(reason))

    def _side(self, run: Run) -> list[Any]:
        return [run.joined([run.cells[place][repeat] for place in self.kept]) for repeat in self._repeats]

    def _joins(self) -> bool:
        """Whether the worst case can be something else than the figure of a single attack."""
        if len(self.kept) > 1 or sum(self._measured(self._old, place) for place in self._places) > 1:
            return True
        sides = [
            (run, run.cells[place][r]) for run in (self._old, self._new) for place in self.kept for r in self._repeats
        ]
        return any(record.review.get(_RULES) or run.followed_up(record) for run, record in sides)

    def _judged(self) -> set[str]:
        return {place.attack for place in self._places for run in (self._old, self._new) if self._measured(run, place)}

    @staticmethod
    def _measured(run: Run, place: Place) -> bool:
        return any(measured(record) for record in run.cells.get(place, {}).values())

    def _shared(self, place: Place) -> set[int]:
        """Repeats that both sides measured under the same rules."""
        before, after = self._old.cells.get(place, {}), self._new.cells.get(place, {})
        return {r for r in before if r in after and _comparable(before[r], after[r])}

    def _is_lost(self, place: Place) -> bool:
        before = self._old.cells.get(place, {})
        return any(measured(record) and not self._takes_part(place, r) for r, record in before.items())

    def _takes_part(self, place: Place, repeat: int) -> bool:
        return place in self.kept and repeat in self._repeats

    def _lost(self) -> Gap:
        """Whether attacks or repeats that the old run had take no part, and why."""
        found = Gap.NONE
        for place in filter(self._is_lost, self._places):
            before, after = self._old.cells[place], self._new.cells.get(place, {})
            found |= gap(before, after) or _other(before, after)
        return found


def _other(before: Mapping[int, Record], after: Mapping[int, Record]) -> Gap:
    """All repeats are there: either they cannot be compared, or another attack lacks this one's repeat."""
    alike = all(_comparable(record, after[r]) for r, record in before.items() if measured(record))
    return Gap.MISSING if alike else Gap.INCOMPARABLE


def _comparable(old: Record, new: Record) -> bool:
    return measured(old) and measured(new) and not incomparable(old, new)


def _refused(blank: Row, why: Gap, told: str) -> Row:
    """Means over attacks are no worst case, so no figure is shown."""
    return replace(
        blank,
        old=None,
        new=None,
        difference=None,
        verdict=Change.NOT_COMPARABLE,
        gap=why,
        message=sentence(told, blank.message),
    )
