"""One self-contained page for a run: tables, figures, galleries, details, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustsuite.benchmark.records import Record

if TYPE_CHECKING:
    import pandas as pd


def page(folder: Path, records: Sequence[Record], frame: pd.DataFrame) -> str:
    """The page as text."""
    return str(frame.to_html(escape=True))
