"""Two runs side by side: cells by what they are called, outcomes by sample id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from robustsuite.core.errors import RequestError
from robustsuite.core.robust import VERDICT, worst
from robustsuite.evaluation.record_files import load_samples
from robustsuite.evaluation.records import Record
from robustsuite.results.changes import Gap
from robustsuite.results.sweeps import defense_name
from robustsuite.results.worst_case import is_harm, own_balls

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from robustsuite.results.results import Results

RATES: Final = ("rate", "rate difference")
_OVERLAP: Final = 0.5  # share of the larger side's samples that must be on both sides
_LABEL: Final = "label"


class Place(NamedTuple):
    """What a cell is called in every release: its key may change, this does not."""

    defense: str
    attack: str
    scenario: str
    norm: str = ""
    radius: float | None = None


def measured(record: Record) -> bool:
    """Whether it has figures."""
    return record.measured and bool(record.metrics)


def gap(before: Mapping[int, Record], after: Mapping[int, Record]) -> Gap:
    """Whether repeats that the old run measured are missing or withheld in the new one; an error is told elsewhere.

    Args:
        before: Repeat -> record of the old run.
        after: Repeat -> record of the new run.
    """
    found = Gap.NONE
    for repeat, record in before.items():
        if measured(record):
            now = after.get(repeat)
            if now is None:
                found |= Gap.MISSING
            elif not measured(now) and now.status != "error":
                found |= Gap.WITHHELD
    return found


class Unpaired(Exception):  # noqa: N818  # it ends a pairing, not the comparison
    """Why two cells have no samples in common that could be compared; the message is for people."""


@dataclass(frozen=True, eq=False)
class Outcomes:
    """One verdict per sample.

    Args:
        ids: Sample ids `(n,)`.
        holds: Whether the rate's event happened `(n,)`, bool.
        labels: True labels `(n,)`; None where the run did not store them.
    """

    ids: NDArray[np.int64]
    holds: NDArray[np.bool_]
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Pairs:
    """The same samples under both runs.

    Args:
        old: `(R, n)`, bool, one row per repeat.
        new: `(R, n)`, bool.
        sizes: How many samples each side was judged on.
    """

    old: NDArray[np.bool_]
    new: NDArray[np.bool_]
    sizes: tuple[int, int]


class Run:
    """One side of a comparison.

    Args:
        report: Its records, with their folder.
        curve: Whether points of curves are taken in, which are judged at other radii and on fewer samples.
        several: Whether cells are named with their suite and data set, because one of the two runs has several.
    """

    def __init__(self, report: Results, *, curve: bool = False, several: bool = False) -> None:
        self.records, self._folder, self._several = report.records, report.folder, several
        self._loaded: dict[str, dict[str, NDArray[Any]]] = {}
        self._balls = own_balls(report.records)
        self.cells: dict[Place, dict[int, Record]] = {}
        self.balls: dict[tuple[str, str, str], dict[tuple[str, float | None], None]] = {}
        for record in report.records:
            place = self._place(record)
            if record.measured:
                self.balls.setdefault(place[:3], {})[record.norm, record.radius] = None
            if curve or not record.sweep:
                # A curve may visit the main radius again, on fewer samples: the first record counts.
                self.cells.setdefault(place, {}).setdefault(record.repeat, record)
        self.left_out = 0 if curve else sum(bool(record.sweep) for record in report.records)

    def _place(self, record: Record) -> Place:
        ball = record.norm, record.radius
        if record.radius is None:  # it failed before it knew its ball, where its game has one
            ball = self._balls.get((record.suite, record.dataset, record.scenario), ball)
        return Place(defense_name(record, self._several), record.attack, record.scenario, *ball)

    def outcomes(self, record: Record, metric: str, column: str = "") -> Outcomes:
        """The outcomes behind a rate.

        Args:
            record: Whose.
            metric: The rate.
            column: Where they stand, where that is there; by default where those of this rate do.

        Raises:
            Unpaired: There are none at hand.
        """
        spec, columns = record.meaning.spec(metric), self._columns(record)
        name = column if column in columns else spec.outcome or metric
        counted = "" if spec.all_before and spec.counted not in columns else spec.counted
        if name not in columns or (counted and counted not in columns):
            raise Unpaired("no outcomes per sample were stored")
        keep = columns[counted] if counted else slice(None)
        labels = columns.get(_LABEL)
        return Outcomes(columns["id"][keep], columns[name][keep].astype(bool), None if labels is None else labels[keep])

    def counts(self, record: Record, metric: str) -> bool:
        """Whether this is a rate whose outcomes are stored, or should be."""
        if record.meaning.spec(metric).outcome:
            return True
        try:
            column = self._columns(record).get(metric)
        except Unpaired:
            # What cannot be read may have been tampered with: its rates are not passed over.
            return bool(record.samples) and metric in record.metrics and record.metrics[metric].unit in RATES
        return column is not None and column.dtype == bool

    def joined(self, records: Sequence[Record]) -> Outcomes:
        """What is left of each sample by all of these attacks and what followed them up, where all were judged.

        Args:
            records: Of one game, whose attacks are joined.

        Raises:
            Unpaired: Outcomes of one are not at hand.
        """
        import numpy as np

        found = [self._left(record) for record in records]
        robust = worst([dict(zip(side.ids.tolist(), side.holds.tolist(), strict=True)) for side in found])
        ids, labels = found[0].ids, found[0].labels
        common = np.isin(ids, list(robust))
        holds = np.array(list(robust.values()), dtype=bool) ^ is_harm(records[0].meaning)
        return Outcomes(ids[common], holds, None if labels is None else labels[common])

    def _left(self, record: Record) -> Outcomes:
        """Which samples an attack and its follow-ups left unharmed."""
        found = self.outcomes(record, record.meaning.joined, VERDICT)
        told = VERDICT in self._columns(record)
        return found if told else replace(found, holds=found.holds ^ is_harm(record.meaning))

    def followed_up(self, record: Record) -> bool:
        """Whether the record tells the attack's own number from the worst case with its follow-up attacks."""
        try:
            return VERDICT in self._columns(record)
        except Unpaired:
            return False

    def _columns(self, record: Record) -> dict[str, NDArray[Any]]:
        """Columns with one entry per sample; pictures are let go."""
        if record.key not in self._loaded:
            if self._folder is None:
                raise Unpaired("its per-sample files are not at hand")
            try:
                table = load_samples(self._folder, record)
            except RequestError as error:
                raise Unpaired(str(error)) from None
            found = {name: column.numpy() for name, column in table.items() if column.dim() == 1}
            self._loaded[record.key] = {n: c for n, c in found.items() if "id" in found and len(c) == len(found["id"])}
        return self._loaded[record.key]


def pair(old: Sequence[Outcomes], new: Sequence[Outcomes]) -> Pairs:
    """Bring both sides of every repeat to the samples that all of them were judged on.

    Raises:
        Unpaired: Less than half of the samples are common, or their labels disagree.
    """
    import numpy as np

    sides = [*old, *new]
    common = sides[0].ids
    for side in sides[1:]:
        common = np.intersect1d(common, side.ids)
    sizes = (len(old[0].ids), len(new[0].ids))
    if len(common) == 0 or len(common) < _OVERLAP * max(sizes):
        raise Unpaired(f"other samples: {len(common)} of {sizes[0]} and {sizes[1]} are common")
    rows = [_common(side.ids, common)[0] for side in sides]
    labels = [side.labels[row] for side, row in zip(sides, rows, strict=True) if side.labels is not None]
    if any((other != labels[0]).any() for other in labels[1:]):
        raise Unpaired("other data: samples of one id have different labels")
    holds = np.stack([side.holds[row] for side, row in zip(sides, rows, strict=True)])
    return Pairs(holds[: len(old)], holds[len(old) :], sizes)


def _common(here: NDArray[Any], there: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Positions of the common ids on either side."""
    import numpy as np

    _, left, right = np.intersect1d(here, there, return_indices=True)
    return left, right


def order(old: Mapping[Place, Any], new: Mapping[Place, Any]) -> list[Place]:
    """Places of both runs: defences in the old run's order, within each the old run's cells first."""
    places = list(dict.fromkeys([*old, *new]))
    defenses = list(dict.fromkeys(place.defense for place in places))
    return sorted(places, key=lambda place: defenses.index(place.defense))
