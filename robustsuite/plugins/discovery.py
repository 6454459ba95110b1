"""Built-in and installed plug-ins, found through one door: an entry point, whose package is imported whole."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any, Final

from robustsuite.core import checks
from robustsuite.core.errors import RequestError
from robustsuite.core.process_state import strangers_code

GROUP: Final = "robustsuite.plugins"
_SUITE: Final = "robustsuite"
_BUILT_IN: Final = ("attacks", "defenses")
_PANELS: Final = EntryPoint("panels", f"{_SUITE}.report.panels", GROUP)


def import_all() -> None:
    """Import every built-in and every installed plug-in, whose decorators register them.

    Raises:
        RequestError: What one of them raised, and which it is; built-ins of another copy of the suite.
    """
    for name in _BUILT_IN:
        _beside(name)
    for point in (*(EntryPoint(name, f"{_SUITE}.{name}", GROUP) for name in _BUILT_IN), _PANELS):
        _load(point)
    for point in _installed():
        with strangers_code(f"the installed plug-in {point.name!r}"):
            _load(point)


def _load(point: EntryPoint) -> None:
    """Import what an entry point names, and of a package every module whose name begins with no underscore."""
    try:
        _import_below(point.load())
    except Exception as error:
        remedy = f"{type(error).__name__}: {error}: mend or uninstall it"
        got = f"plugin={point.value!r} of entry point {point.name!r}"
        raise RequestError(f"expected an installed plug-in that can be imported, got {got}; {remedy}") from error


def _import_below(package: Any) -> None:
    for found in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{getattr(package, '__name__', '')}."):
        if not found.name.rpartition(".")[2].startswith("_"):
            _import_below(importlib.import_module(found.name))


def _installed() -> Iterator[EntryPoint]:
    """Entry points of installed packages; what only lies in the working folder is not installed."""
    here = Path.cwd().resolve()
    places = [place for place in sys.path if place and Path(place).resolve() != here]
    seen = set()
    for package in distributions(path=places):
        points = package.entry_points.select(group=GROUP)
        if points and package.name not in seen:  # as everywhere, the first on the path of one name is meant
            seen.add(package.name)
            yield from points


def _beside(name: str) -> None:
    """Import the built-in package that belongs to this copy of the suite, wherever another copy lies on the path.

    A checkout holds them beside the suite, an installed wheel inside it.

    Raises:
        RequestError: Another copy's was imported already.
    """
    suite = sys.modules[_SUITE]
    inside = Path(suite.__path__[0]).resolve() / name
    place = inside if inside.is_dir() else inside.parent.parent / name
    module = sys.modules.get(f"{_SUITE}.{name}")
    if module is None:
        spec = importlib.util.spec_from_file_location(f"{_SUITE}.{name}", place / "__init__.py")
        assert spec is not None  # of a file that ends in .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        setattr(suite, name, module)
    found = Path(module.__path__[0]).resolve()
    if found != place:
        remedy = f"the suite is that of {inside.parent}: leave one of the two copies on the path"
        raise checks.fail(f"{_SUITE}.{name} in {place}", "path", str(found), remedy)
