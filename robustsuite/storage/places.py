"""Where data lie: a folder that was asked for, `$ROBUSTSUITE_DATA`, or the user's cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from robustsuite.core import checks

VARIABLE: Final = "ROBUSTSUITE_DATA"


def data_root(root: str | None) -> Path:
    """The folder that data sets are looked for in: `root`, else `$ROBUSTSUITE_DATA`, else the user's cache."""
    chosen = root or os.environ.get(VARIABLE)
    return Path(chosen).expanduser() if chosen else user_cache() / "robustsuite" / "data"


def resolve(path: str, root: str | None) -> Path:
    """A path as the user means it: as it stands, or below `data_root`.

    Raises:
        RequestError: It is in neither place.
    """
    given = Path(path).expanduser()
    below = data_root(root) / given
    for place in (given, below):
        if place.exists():
            return place
    tried = str(given.absolute()) if given.is_absolute() else f"{given.absolute()} and {below}"
    raise checks.fail("data that exist", "path", path, f"looked at {tried}: set path, root or ${VARIABLE}")


def user_cache() -> Path:
    """The folder in which this system keeps what can be made again."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
