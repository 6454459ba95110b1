"""A file that a killed training resumes from."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from robustsuite.storage.files import write_atomically

_log = logging.getLogger(__name__)
_FORMAT: Final = 2  # raised when what a snapshot holds changes
_SECONDS_BETWEEN = 15.0  # shorter trainings are cheaper to repeat than to save


class Checkpoint:
    """Saved now and then, read back with `weights_only=True`, removed when the training ends."""

    def __init__(self, path: Path | None, *, seconds_between: float = _SECONDS_BETWEEN) -> None:
        self._path, self._between = path, seconds_between
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The last state, or None where there is none that can be read, or only one of another version."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(self._path, weights_only=True, map_location="cpu")
        except Exception:  # a torn or foreign file costs a fresh start, never a wrong one
            return None
        return state if isinstance(state, dict) and state.get("format") == _FORMAT else None

    def save(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        """Write the state where the last one is old enough."""
        if self._path is None or time.monotonic() - self._last < self._between:
            return
        self._last = time.monotonic()
        buffer = io.BytesIO()
        torch.save({"format": _FORMAT, **snapshot()}, buffer)
        try:
            write_atomically(self._path, buffer.getvalue())
        except OSError as error:  # there may be room by the time at which the weights are kept
            _log.warning("a training goes on without its checkpoint: %s", error)

    def clear(self) -> None:
        """Remove the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
