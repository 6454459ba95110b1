"""What an evaluation gives back in Python: records with their tables."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from robustsuite.core import checks
from robustsuite.evaluation import records as store
from robustsuite.evaluation.records import Record
from robustsuite.run.planned import complete
from robustsuite.storage.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from robustsuite.results.cells import ComparisonTable


class Report:
    """Records of one run or evaluation.

    Args:
        records: In any order; kept in plan order.
        folder: Where their per-sample files lie; None where there are none, and then there is no worst case.

    Example:
        >>> Report([])
        Report(0 records)
    """

    def __init__(self, records: Iterable[Record], folder: Path | str | None = None) -> None:
        self.records = tuple(sorted(records, key=lambda record: record.order))
        self.folder = None if folder is None else Path(folder)

    @classmethod
    def load(cls, folder: Path | str) -> Report:
        """Read a run's folder; cells that its suite has planned and that have no record count as `not_run`.

        Raises:
            RequestError: It holds no records.
        """
        found = complete(store.read(Path(folder) / "records.jsonl"), Path(folder))
        if not found:
            raise checks.fail("a folder with records.jsonl", "folder", str(folder), "name the folder of a run")
        return cls(found, folder)

    @cached_property
    def joined(self) -> tuple[Record, ...]:
        """The records, and behind those that it joins the worst case over attacks."""
        from robustsuite.results.worst_case import with_worst_cases

        return tuple(with_worst_cases(self.records, self.folder))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The tidy table: one row a metric."""
        from robustsuite.results.frame import tidy

        return tidy(self.joined)

    @cached_property
    def comparison(self) -> ComparisonTable:
        """The comparison table as data."""
        from robustsuite.results.table import comparison

        return comparison(self.joined)

    def table(self) -> pd.DataFrame:
        """The comparison table as text: a row per defence, a column per headline."""
        return self.comparison.frame()

    def show(self, console: Console | None = None) -> None:
        """Print the comparison table, and what follow-up attacks found, on the terminal or on `console`."""
        from rich.console import Console

        from robustsuite.report.export.terminal import terminal
        from robustsuite.results import followed_up

        console = console if console is not None else Console()
        terminal(self.comparison, console)
        followed_up.show(self.records, console)

    def save(self, folder: Path | str) -> Path:
        """Write records, per-sample files, tables and the HTML report into a folder.

        Args:
            folder: Made where it is not there; files of an earlier report in it are replaced.

        Returns:
            The folder.

        Raises:
            RequestError: There are no records, or a per-sample file is missing or is not what its record describes.
        """
        from robustsuite.report.files import write

        target = Path(folder)
        if self.folder is None or self.folder.resolve() != target.resolve():
            self._copy(target)
        write(target, self.records)
        return target

    def _copy(self, target: Path) -> None:
        if self.folder is not None:
            for record in self.records:
                if record.samples:
                    store.load_samples(self.folder, record)
                    (target / record.samples).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self.folder / record.samples, target / record.samples)
            for name in ("suite.yaml", "gates.json"):
                if (self.folder / name).is_file():
                    write_atomically(target / name, (self.folder / name).read_bytes())
        played = (record for record in self.records if record.status != "not_run")
        lines = "".join(record.line() + "\n" for record in played)
        write_atomically(target / "records.jsonl", lines.encode())

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        head = f"Report({len(self.records)} records)"
        return f"{head}\n{self.table().to_string()}" if self.records else head

    def _repr_html_(self) -> str:
        """The comparison table for notebooks with norm, radius and the meaning of its marks, escaped."""
        from robustsuite.report.export.notebook import notebook

        return notebook(self.comparison, self.joined)
