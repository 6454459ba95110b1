"""A run's folder to the files that people and scripts read."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robustsuite.core import checks
from robustsuite.report.export.junit import junit
from robustsuite.report.export.markup import escape_markdown, follow_ups, latex, markdown
from robustsuite.report.export.sarif import sarif
from robustsuite.report.page import page
from robustsuite.report.summary import damage
from robustsuite.results import gates
from robustsuite.results.deciding import Verdict
from robustsuite.results.results import Results
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
_Judged = Sequence[Verdict]


def write(
    run: Results | Path | str, formats: Sequence[str] = tuple(NAMES), judged: Sequence[Verdict] | None = None
) -> list[Path]:
    """Write tables and report into a run's folder; each file is whole or absent, and equal records give equal bytes.

    Args:
        run: What to report, with its folder, or the folder of a run.
        formats: Any of `csv`, `parquet`, `md`, `latex`, `html`, `junit`, `sarif`. Parquet is left out where pyarrow
            is not installed.
        judged: Verdicts on the run's gates; None judges the gates that the folder names.

    Returns:
        The files written.

    Raises:
        RequestError: An unknown format, no folder, or no records.
    """
    for name in formats:
        checks.one_of("format", name, NAMES)
    results = run if isinstance(run, Results) else Results.load(run)
    folder = results.folder
    if folder is None:
        raise checks.fail("a report with a folder", "folder", None, "save it first: report.save(folder)")
    if not results.records:
        raise checks.fail("a folder with records", "folder", str(folder), "name the folder of a run")
    verdicts = gates.judged(results) if judged is None else judged
    written = []
    for name in formats:
        content = _MAKERS[name](folder, results, verdicts)
        if content is not None:
            write_atomically(folder / NAMES[name], content)
            written.append(folder / NAMES[name])
    return written


def csv(frame: pd.DataFrame) -> str:
    """The tidy table as CSV, with empty fields for what is missing."""
    return frame.to_csv(index=False, lineterminator="\n")


def _tables(results: Results) -> str:
    """The comparison, and below it what follow-up attacks found, where there were any; damage stands above all."""
    lost = "".join(f"{escape_markdown(told)}\n\n" for told in damage(results.lines.faults))
    compared, found = lost + markdown(results.comparison), follow_ups(results.records)
    return f"{compared}\nFollow-up attacks, robust accuracy in %:\n\n{found}" if found else compared


def _parquet(frame: pd.DataFrame) -> bytes | None:
    if importlib.util.find_spec("pyarrow") is None:
        return None
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, engine="pyarrow")
    return buffer.getvalue()


_MAKERS: Final[dict[str, Callable[[Path, Results, _Judged], bytes | None]]] = {
    "csv": lambda _, results, __: csv(results.frame).encode(),
    "parquet": lambda _, results, __: _parquet(results.frame),
    "md": lambda _, results, __: _tables(results).encode(),
    "latex": lambda _, results, __: latex(results.comparison).encode(),
    "html": lambda folder, results, judged: page(folder, results, judged).encode(),
    "junit": lambda folder, results, judged: junit(folder, results, judged).encode(),
    "sarif": lambda folder, results, judged: sarif(folder, results, judged).encode(),
}
