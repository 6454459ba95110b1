"""Ctrl-C once lets what runs finish; twice stops at once."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Self

_TOLD: Final = "interrupted: what runs now is finished and kept; press Ctrl-C again to stop at once"


class Interrupts:
    """Counts Ctrl-C while the block runs; outside the main thread, where no signal arrives, it only stands there.

    Args:
        note: Told, once, what a second Ctrl-C does.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.asked, self._note = False, note
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        # On a thread of its own: this one may be in the middle of writing to the same stream.
        _thread.start_new_thread(self._note, (_TOLD,))
