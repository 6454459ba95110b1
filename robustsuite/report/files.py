"""A run's folder to the files that people and scripts read."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robustsuite import checks
from robustsuite.benchmark import records as store
from robustsuite.benchmark.records import Record
from robustsuite.files import write_atomically
from robustsuite.report import html
from robustsuite.report.frame import tidy
from robustsuite.report.table import comparison, latex, markdown

if TYPE_CHECKING:
    import pandas as pd

NAMES: Final = {
    "csv": "results.csv",
    "parquet": "results.parquet",
    "md": "table.md",
    "latex": "table.tex",
    "html": "report.html",
}


def write(
    folder: Path | str, records: Iterable[Record] | None = None, formats: Sequence[str] = tuple(NAMES)
) -> list[Path]:
    """Write tables and report into a run's folder; each file is whole or absent, and equal records give equal bytes.

    Args:
        folder: The run's folder.
        records: What to report; None reads `records.jsonl`.
        formats: Any of `csv`, `parquet`, `md`, `latex`, `html`. Parquet is left out where pyarrow is not installed.

    Returns:
        The files written.

    Raises:
        RequestError: An unknown format, or no records.
    """
    folder = Path(folder)
    for name in formats:
        checks.one_of("format", name, NAMES)
    found = store.read(folder / "records.jsonl") if records is None else list(records)
    if not found:
        raise checks.fail("a folder with records", "folder", str(folder), "name the folder of a run")
    frame = tidy(found, folder)
    written = []
    for name in formats:
        content = _MAKERS[name](folder, found, frame)
        if content is not None:
            write_atomically(folder / NAMES[name], content)
            written.append(folder / NAMES[name])
    return written


def csv(frame: pd.DataFrame) -> str:
    """The tidy table as CSV, with empty fields for what is missing."""
    return frame.to_csv(index=False, lineterminator="\n")


def _parquet(frame: pd.DataFrame) -> bytes | None:
    if importlib.util.find_spec("pyarrow") is None:
        return None
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, engine="pyarrow")
    return buffer.getvalue()


_MAKERS: Final[dict[str, Callable[[Path, list[Record], pd.DataFrame], bytes | None]]] = {
    "csv": lambda folder, records, frame: csv(frame).encode(),  # noqa: ARG005
    "parquet": lambda folder, records, frame: _parquet(frame),  # noqa: ARG005
    "md": lambda folder, records, frame: markdown(comparison(frame)).encode(),  # noqa: ARG005
    "latex": lambda folder, records, frame: latex(comparison(frame)).encode(),  # noqa: ARG005
    "html": lambda folder, records, frame: html.page(folder, records, frame).encode(),
}
