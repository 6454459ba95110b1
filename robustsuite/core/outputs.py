"""Standard output and error of the commands: closed, or read by somebody who has enough, they are written in vain."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Final, TextIO

from robustsuite.core.errors import StorageError

_NAMES: Final = {0: "stdin", 1: "stdout", 2: "stderr"}


class Output(io.TextIOWrapper):
    """A text stream that goes on into nothing once its reader is gone.

    What a command does must not hang on who reads along: a run whose table is piped into `head -1` writes its report,
    and ends with the exit code of its gates.
    """

    def write(self, text: str, /) -> int:
        """Write, or lose it where nobody reads any more.

        Raises:
            StorageError: The disk behind the stream refuses it.
        """
        if isinstance(text, str) and not text:
            return 0  # libraries ask so whether a stream takes text, and drop what it raises
        try:
            return super().write(text)
        except OSError as error:
            self._lost(error)
            return len(text)

    def flush(self) -> None:
        """Pass on what was written, or lose it where nobody reads any more.

        Raises:
            StorageError: The disk behind the stream refuses it.
        """
        try:
            super().flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        _into_nothing(self.fileno())
        if not isinstance(error, BrokenPipeError):
            reason = error.strerror or str(error)
            raise StorageError(
                f"expected to write {self.name}, got {reason}; make room, or send it elsewhere"
            ) from error


def guard() -> None:
    """Make standard output and error such streams, and open into nothing what the caller has closed.

    A closed descriptor would be given to the next file that is opened, and whatever a library prints would go there.
    """
    for descriptor, name in _NAMES.items():
        try:
            os.fstat(descriptor)
        except OSError:
            _into_nothing(descriptor)
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            mode = "r" if descriptor == 0 else "w"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115
        elif descriptor and type(stream) is io.TextIOWrapper:  # nobody has put another one there
            setattr(sys, name, _guarded(stream))


def _guarded(stream: io.TextIOWrapper) -> Output:
    with contextlib.suppress(OSError):
        stream.flush()
    return Output(
        stream.buffer,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _into_nothing(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != descriptor:
        os.dup2(nothing, descriptor)
        os.close(nothing)
