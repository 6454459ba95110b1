"""Names that a package gives away when they are first asked for, so that importing it imports nothing heavy."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562).

    Args:
        package: Its name.
        places: Name -> module that holds it, by its full name or, after a dot, below the package.

    Raises:
        AttributeError: When another name is asked for.
    """

    def load(name: str) -> Any:
        if name in places:
            return getattr(importlib.import_module(places[name], package), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load
