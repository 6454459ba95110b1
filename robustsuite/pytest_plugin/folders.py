"""Folders that tests of one run, in several processes, write and read."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from filelock import FileLock

_WAIT = 600  # seconds that another process may take to write a report


def folder_name(name: str) -> str:
    """A test's id as the name of one folder: as JUnit writes it, with a digest where characters had to be replaced.

    Example:
        >>> folder_name("tests/test_model.py::TestDigits::test_pgd")
        'tests.test_model.TestDigits.test_pgd'
    """
    file, colons, inside = name.partition("::")
    path = PurePosixPath(file.replace("\\", "/"))
    dotted = ".".join((*path.with_suffix("").parts, *inside.split("::"))) if colons else name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", dotted).strip("-.")[:100]
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return plain if plain and plain == dotted else f"{plain or 'gate'}-{digest}"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep every other process that asks for this folder waiting; nothing is left beside it."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"robustsuite-{_user()}-{name}.lock", timeout=_WAIT):
        yield


def _user() -> str:
    try:
        return re.sub(r"\W", "", getpass.getuser())
    except (OSError, KeyError):  # a container may run as a user without a name
        return str(os.getuid()) if hasattr(os, "getuid") else "user"
