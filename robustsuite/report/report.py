"""What an evaluation gives back in Python: results that show and save themselves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from robustsuite.evaluation import record_files as store
from robustsuite.report.export import terminal
from robustsuite.report.export.notebook import notebook
from robustsuite.report.files import write
from robustsuite.results.results import Results
from robustsuite.storage.files import write_atomically

if TYPE_CHECKING:
    from rich.console import Console


class Report(Results):
    """Records of one run or evaluation.

    Args:
        records: In any order; kept in plan order.
        folder: Where their per-sample files lie; None where there are none, and then there is no worst case.

    Example:
        >>> Report([])
        Report(0 records)
    """

    def show(self, console: Console | None = None) -> None:
        """Print the comparison table, and what follow-up attacks found, on the terminal or on `console`."""
        from rich.console import Console

        console = console if console is not None else Console()
        terminal.terminal(self.comparison, console)
        terminal.follow_ups(self.records, console)
        terminal.limits(self.joined, console)

    def save(self, folder: Path | str) -> Path:
        """Write records, per-sample files, tables and the HTML report into a folder.

        Args:
            folder: Made where it is not there; files of an earlier report in it are replaced.

        Returns:
            The folder.

        Raises:
            RequestError: There are no records, or a per-sample file is missing or is not what its record describes.
        """
        target = Path(folder)
        if self.folder is None or self.folder.resolve() != target.resolve():
            self._copy(target)
        write(Results(self.records, target))
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
        store.write(target / "records.jsonl", (record for record in self.records if record.status != "not_run"))

    def __repr__(self) -> str:
        head = f"Report({len(self.records)} records)"
        return f"{head}\n{self.table().to_string()}" if self.records else head

    def _repr_html_(self) -> str:
        """The comparison table for notebooks with norm, radius and the meaning of its marks, escaped."""
        return notebook(self.comparison, self.joined)
