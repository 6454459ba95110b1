"""Files that are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_stand_ins: Final[dict[str, Path]] = {}


def stand_in(named: str, copy: Path) -> None:
    """From now on `located` answers `copy` where a file is called by this name: a worker elsewhere has only that."""
    _stand_ins[named] = copy


def located(named: str | Path) -> Path:
    """Where a file lies that a user named: just there, or where its copy on this machine is."""
    return _stand_ins.get(str(named), Path(named))


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write beside `path`, wait for the disk, then rename: readers see the old file or the new one.

    Args:
        path: The file; its folder is made where it is not there.
        content: All of it.
        durable: Whether to wait for the disk; what can be made again may be lost with the power.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
