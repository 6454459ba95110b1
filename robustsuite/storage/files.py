"""Files that are whole or absent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from robustsuite.core.errors import StorageError

_substitutes: Final[dict[str, Path]] = {}


def substitute(named: str, copy: Path) -> None:
    """From now on `located` answers `copy` where a file is called by this name: a worker elsewhere has only that."""
    _substitutes[named] = copy


def located(named: str | Path) -> Path:
    """Where a file lies that a user named: just there, or where its copy on this machine is."""
    return _substitutes.get(str(named), Path(named).expanduser())


def absent(named: str | Path) -> str:
    """That nothing lies where a user says: the whole path that was tried, and where a relative one starts."""
    path = located(named)
    start = "" if path.is_absolute() else "; relative paths start in the working folder"
    return f"there is no {path.absolute()}{start}"


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write beside `path`, wait for the disk, then rename: readers see the old file or the new one.

    Args:
        path: The file; its folder is made where it is not there.
        content: All of it.
        durable: Whether to wait for the disk; what can be made again may be lost with the power.

    Raises:
        StorageError: The disk refuses it; the old file stands.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with scratch.open("wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            scratch.replace(path)
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)


def anchor(folder: Path) -> None:
    """Wait until the disk knows which files a folder holds; elsewhere than on POSIX systems it needs no asking."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Name the file that is written in this block, where the disk refuses it.

    Raises:
        StorageError: What the disk says, and the way out.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        refused = StorageError(f"expected to write {path}, got {reason}; make room, or mend what refuses it")
        refused.strerror = reason
        raise refused from error
