"""A run's folder to the files that people and scripts read."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robustsuite.core import checks
from robustsuite.evaluation import records as store
from robustsuite.evaluation.records import Record
from robustsuite.report import page
from robustsuite.report.export.junit import junit
from robustsuite.report.export.sarif import sarif
from robustsuite.results import followed_up
from robustsuite.results.frame import tidy
from robustsuite.results.table import comparison, latex, markdown
from robustsuite.results.verdict_text import GateVerdict
from robustsuite.results.worst_case import with_worst_cases
from robustsuite.run.planned import complete
from robustsuite.storage.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

NAMES: Final = {
    "csv": "results.csv",
    "parquet": "results.parquet",
    "md": "table.md",
    "latex": "table.tex",
    "html": "report.html",
    "junit": "junit.xml",
    "sarif": "results.sarif",
}


def write(
    folder: Path | str,
    records: Iterable[Record] | None = None,
    formats: Sequence[str] = tuple(NAMES),
    judged: Sequence[GateVerdict] | None = None,
) -> list[Path]:
    """Write tables and report into a run's folder; each file is whole or absent, and equal records give equal bytes.

    Args:
        folder: The run's folder.
        records: What to report; None reads `records.jsonl`.
        formats: Any of `csv`, `parquet`, `md`, `latex`, `html`, `junit`, `sarif`. Parquet is left out where pyarrow
            is not installed.
        judged: Verdicts on the run's gates; None judges the gates that the folder names.

    Returns:
        The files written.

    Raises:
        RequestError: An unknown format, or no records.
    """
    folder = Path(folder)
    for name in formats:
        checks.one_of("format", name, NAMES)
    found = complete(store.read(folder / "records.jsonl"), folder) if records is None else list(records)
    if not found:
        raise checks.fail("a folder with records", "folder", str(folder), "name the folder of a run")
    run = _Run(folder, found, with_worst_cases(found, folder), judged)
    written = []
    for name in formats:
        content = _MAKERS[name](run)
        if content is not None:
            write_atomically(folder / NAMES[name], content)
            written.append(folder / NAMES[name])
    return written


@dataclass(frozen=True)
class _Run:
    """What every maker of a file may need."""

    folder: Path
    records: list[Record]
    joined: list[Record]
    given: Sequence[GateVerdict] | None

    @cached_property
    def frame(self) -> pd.DataFrame:
        return tidy(self.joined)

    @cached_property
    def judged(self) -> Sequence[GateVerdict]:
        return judged_in(self.folder, self.records) if self.given is None else self.given


def judged_in(folder: Path, records: Iterable[Record]) -> Sequence[GateVerdict]:
    """Verdicts on the gates that a run was asked to pass; none where it was asked for none.

    Raises:
        RequestError: Its file of gates has been changed to something else.
    """
    from robustsuite.report.report import Report
    from robustsuite.results import gates

    asked = gates.load(folder)
    return gates.judge(asked, Report(records, folder)) if asked else ()


def csv(frame: pd.DataFrame) -> str:
    """The tidy table as CSV, with empty fields for what is missing."""
    return frame.to_csv(index=False, lineterminator="\n")


def _tables(run: _Run) -> str:
    """The comparison, and below it what follow-up attacks found, where there were any."""
    compared, found = markdown(comparison(run.joined)), followed_up.markdown(run.records)
    return f"{compared}\nFollow-up attacks, robust accuracy in %:\n\n{found}" if found else compared


def _parquet(frame: pd.DataFrame) -> bytes | None:
    if importlib.util.find_spec("pyarrow") is None:
        return None
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, engine="pyarrow")
    return buffer.getvalue()


_MAKERS: Final[dict[str, Callable[[_Run], bytes | None]]] = {
    "csv": lambda run: csv(run.frame).encode(),
    "parquet": lambda run: _parquet(run.frame),
    "md": lambda run: _tables(run).encode(),
    "latex": lambda run: latex(comparison(run.joined)).encode(),
    "html": lambda run: page.page(run.folder, run.records, run.joined, run.judged).encode(),
    "junit": lambda run: junit(run.folder, run.records, run.judged).encode(),
    "sarif": lambda run: sarif(run.folder, run.records, run.joined, run.judged).encode(),
}
