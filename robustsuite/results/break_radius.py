"""At which radius each sample breaks, as far as a run's per-sample files say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from robustsuite.core.errors import RequestError
from robustsuite.core.robust import is_broken, least_radii
from robustsuite.evaluation.record_files import load_samples
from robustsuite.evaluation.records import Record


class BreakRadii:
    """Reads each per-sample file once.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Mapping[int, float]] = {}

    def radii(self, record: Record) -> Mapping[int, float]:
        """The least radius at which each judged sample is known to be broken by this attack, by its id.

        As `robust.least_radii` reads it; empty where there is no sound file.
        """
        if record.key not in self._known:
            self._known[record.key] = self._read(record)
        return self._known[record.key]

    def within(self, records: Iterable[Record], radius: float) -> frozenset[int]:
        """Ids of samples that are broken at this radius or at a smaller one, by one of these records."""
        return frozenset(i for r in records for i, least in self.radii(r).items() if is_broken(least, radius))

    def _read(self, record: Record) -> Mapping[int, float]:
        if not record.measured or record.radius is None:
            return {}
        try:
            columns = load_samples(self._folder, record)
        except RequestError:
            return {}
        return least_radii(columns, record.radius, minimum_norm=record.minimum_norm)
