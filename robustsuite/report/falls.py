"""At which radius each sample falls, as far as a run's per-sample files tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from robustsuite.benchmark.records import Record, load_samples
from robustsuite.errors import RequestError

_JUDGED: Final = ("ok", "inconclusive")
_SLACK: Final = 1 + 1e-6  # distances are kept in float32


def fallen(least: float, radius: float) -> bool:
    """Whether a sample that falls at a least radius has fallen at this one."""
    return least <= radius * _SLACK


class Falls:
    """Reads each per-sample file once.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Mapping[int, float]] = {}

    def radii(self, record: Record) -> Mapping[int, float]:
        """The least radius at which each judged sample is known to fall under this attack, by its id.

        0 where the model was wrong from the start, infinite where no fall is known. Where distances were judged, that
        is the distance of the nearest success; else the radius of the record. What the attack broke there by itself has
        fallen at its radius; what its follow-up attacks broke is no part of it. Empty where there is no sound file.
        """
        if record.key not in self._known:
            self._known[record.key] = self._read(record)
        return self._known[record.key]

    def within(self, records: Iterable[Record], radius: float) -> frozenset[int]:
        """Ids of samples that one of these records tells to fall at this radius or at a smaller one."""
        return frozenset(i for r in records for i, least in self.radii(r).items() if fallen(least, radius))

    def _read(self, record: Record) -> Mapping[int, float]:
        if record.scenario != "evasion" or record.status not in _JUDGED or record.radius is None:
            return {}
        try:
            columns = load_samples(self._folder, record)
        except RequestError:
            return {}
        if any(name not in columns for name in ("id", "clean_correct", "robust", "distance")):
            return {}
        read = (columns[name].tolist() for name in ("id", "clean_correct", "robust", "distance"))
        closest, main = record.closest, record.radius
        return {i: _least(right, stands, far, closest, main) for i, right, stands, far in zip(*read, strict=True)}


def _least(right: bool, stands: bool, distance: float, closest: bool, radius: float) -> float:
    if not right:
        return 0.0
    known = distance if closest and not math.isnan(distance) else math.inf
    if not stands:
        return min(known, radius)
    return known if known > radius else math.inf
