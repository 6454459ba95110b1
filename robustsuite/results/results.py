"""Records of a run or an evaluation with what follows from them: worst cases, tidy table, comparison table."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from robustsuite.core import checks
from robustsuite.evaluation import record_files as store
from robustsuite.evaluation.record_files import Lines
from robustsuite.evaluation.records import Record
from robustsuite.results.frame import tidy
from robustsuite.results.planned import complete
from robustsuite.results.table import comparison
from robustsuite.results.worst_case import with_worst_cases

if TYPE_CHECKING:
    import pandas as pd

    from robustsuite.results.cells import ComparisonTable


class Results:
    """What was measured; `Report` draws it.

    Args:
        records: In any order; kept in plan order.
        folder: Where their per-sample files lie; None where there are none, and then there is no worst case.
    """

    def __init__(self, records: Iterable[Record], folder: Path | str | None = None) -> None:
        self.records = tuple(sorted(records, key=lambda record: record.order))
        self.folder = None if folder is None else Path(folder)
        self.lines = Lines()
        """How they stood in the folder: what was left out because it is not as it was written."""

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a run's folder; cells that its suite has planned and that have no whole record count as `not_run`.

        Raises:
            RequestError: It holds no records.
        """
        lines = store.inspect(Path(folder) / "records.jsonl")
        found = complete(lines.records, Path(folder))
        if not found:
            remedy = lines.faults[0] if lines.faults else "name the folder of a run"
            raise checks.fail("a folder with records.jsonl", "folder", str(folder), remedy)
        loaded = cls(found, folder)
        loaded.lines = lines
        return loaded

    @cached_property
    def joined(self) -> tuple[Record, ...]:
        """The records, and behind those that it joins the worst case over attacks."""
        return tuple(with_worst_cases(self.records, self.folder))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The tidy table: one row a metric."""
        return tidy(self.joined)

    @cached_property
    def comparison(self) -> ComparisonTable:
        """The comparison table as data."""
        return comparison(self.joined)

    def table(self) -> pd.DataFrame:
        """The comparison table as text: a row per defence, a column per headline."""
        return self.comparison.frame()

    def __len__(self) -> int:
        return len(self.records)
