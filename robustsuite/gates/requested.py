"""Which gates a folder's run or evaluation was asked to pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from robustsuite.benchmark import yaml_lines
from robustsuite.benchmark.gates import Gate, read_gates
from robustsuite.errors import RequestError
from robustsuite.files import write_atomically

FILE: Final = "gates.json"


def save(folder: Path | str, gates: Sequence[Gate]) -> None:
    """Write the gates of an evaluation into its folder; without any, those of an earlier one are removed."""
    path = Path(folder) / FILE
    if gates:
        text = json.dumps([gate.written() for gate in gates], indent=1)
        write_atomically(path, f"{text}\n".encode())
    else:
        path.unlink(missing_ok=True)


def load(folder: Path | str) -> tuple[Gate, ...]:
    """The gates that were asked for: of an evaluation from `gates.json`, of a run from its `suite.yaml`.

    No plug-in is imported, so a run can be judged where its plug-ins are not installed.

    Args:
        folder: The folder of a run or an evaluation.

    Returns:
        In the order in which they were written; empty where none was asked for.

    Raises:
        RequestError: A file that somebody has changed to something else.
    """
    for name in (FILE, "suite.yaml"):
        path = Path(folder) / name
        if path.is_file():
            return _read(path)
    return ()


def _read(path: Path) -> tuple[Gate, ...]:
    try:
        values: Any = yaml_lines.parse(path.read_text(encoding="utf-8"), str(path)).value  # JSON is YAML
        listed = values.get("gates", []) if isinstance(values, dict) else values
        return read_gates(listed)
    except (OSError, UnicodeDecodeError, RequestError) as error:
        raise RequestError(f"expected gates as the suite writes them, got {path}; {error}") from error
