"""Which files a plug-in's or a user's code consists of: a file and all that it imports, but what keys hold anyway."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

_OWN: Final = "robustsuite"  # its code is part of every key already, but for its plug-ins
PLUGINS: Final = (f"{_OWN}.attacks", f"{_OWN}.defenses")
_BY_NAME: Final = ("import_module", "__import__")
_REGISTRIES: Final = ("attacks", "defenses")


def followed(file: str | Path, *, plugins: bool = False) -> dict[Path, str]:
    """A file and what it imports, directly or through others, anywhere in its code.

    What is installed beside other packages is left out, and so are Python's own modules and this suite; of an
    installed file only its own package is followed.

    Args:
        file: Where to start.
        plugins: Whether the suite's own attacks and defences are followed too.

    Returns:
        File -> the name under which it was imported first, empty for the file itself.
    """
    start = Path(file).resolve()
    found, waiting = {start: ""}, [start]
    while waiting:
        for name, path in _imports(waiting.pop(), _package(start)):
            if path not in found and (plugins or not built_in(path)):
                found[path] = name
                waiting.append(path)
    return found


def code_digest(file: str | Path) -> str:
    """24 hexadecimal digits over a file and all that it imports, the suite's own plug-ins too, wherever they lie."""
    start = Path(file).resolve()
    return _installed_digest(start) if installed(start) or built_in(start) else _digest(start)


def looked_up(file: str | Path) -> tuple[tuple[str, str], ...]:
    """Plug-ins that a file, or what it imports, gets from the registry by a name that is written there.

    Returns:
        Pairs such as `("attacks", "fab")` for each `attacks.get("fab")`.
    """
    start = Path(file).resolve()
    return _installed_look_ups(start) if installed(start) or built_in(start) else _look_ups(start)


@cache
def _installed_look_ups(file: Path) -> tuple[tuple[str, str], ...]:
    return _look_ups(file)


def _look_ups(file: Path) -> tuple[tuple[str, str], ...]:
    found: dict[tuple[str, str], None] = {}
    for path in followed(file, plugins=True):
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            found.update(dict.fromkeys(_look_ups_in(path.read_bytes())))
    return tuple(found)


@lru_cache(maxsize=1024)
def _look_ups_in(content: bytes) -> tuple[tuple[str, str], ...]:
    return tuple(
        (node.func.value.attr, node.args[0].value)
        for node in ast.walk(ast.parse(content))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "get"
        and isinstance(node.func.value, ast.Attribute)
        and node.func.value.attr in _REGISTRIES
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    )


@cache  # what is installed does not change under a running process
def _installed_digest(file: Path) -> str:
    return _digest(file)


def _digest(file: Path) -> str:
    parts = sorted((name, _content(path)) for path, name in followed(file, plugins=True).items())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _content(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _package(file: Path) -> Path | None:
    """The outermost package that an installed file is in; None for a user's own."""
    if not installed(file):
        return None
    folder = file.parent
    while (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _imports(file: Path, package: Path | None) -> Iterator[tuple[str, Path]]:
    try:
        names = _names_in(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # an extension module, say
        return
    for name, level in names:
        for path in _files(name, level, file):
            inside = package is not None and path.is_relative_to(package)
            if inside or not installed(path) or built_in(path):
                yield f"{'.' * level}{name} {path.name}", path


@lru_cache(maxsize=1024)
def _names_in(content: bytes) -> tuple[tuple[str, int], ...]:
    return tuple(_names(ast.parse(content)))


def _names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Dotted names that are imported, with the dots of relative ones counted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = f"{node.module}." if node.module else ""
            yield from ((f"{base}{alias.name}", node.level) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in _BY_NAME and isinstance(node.args[0].value, str):
                yield node.args[0].value, 0


def _files(name: str, level: int, importer: Path) -> Iterator[Path]:
    """Files that importing this name runs: each package on the way, and the module."""
    first, *rest = name.split(".")
    if level:
        places, rest = [importer.parents[min(level, len(importer.parents)) - 1]], [first, *rest]
    elif first == _OWN:
        package = ".".join([first, *rest[:1]])
        if package not in PLUGINS:
            return
        (file, places), rest = _top(package), rest[1:]
        if file is not None:
            yield file.resolve()
    elif first in sys.builtin_module_names or first in sys.stdlib_module_names:
        return
    else:
        file, places = _top(first)
        if file is not None:
            yield file.resolve()
    for part in rest:
        options = [place / part for place in places]
        for option in options:
            for file in (option.with_suffix(".py"), option / "__init__.py"):
                if file.is_file():
                    yield file.resolve()
        places = [option for option in options if option.is_dir()]


def _top(name: str) -> tuple[Path | None, list[Path]]:
    """The file of a module or package outside all others, and where its parts lie; nothing is run for it."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    try:
        spec = spec or importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None, []
    if spec is None:
        return None, []
    file = Path(spec.origin) if spec.has_location and spec.origin else None
    return file, [Path(place) for place in spec.submodule_search_locations or ()]


@cache
def _plugin_folders() -> tuple[Path, ...]:
    return tuple(place.resolve() for package in PLUGINS for place in _top(package)[1])


def built_in(file: Path) -> bool:
    """Whether a file is one of the suite's own attacks or defences."""
    return any(file.is_relative_to(place) for place in _plugin_folders())


@cache
def _places() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(Path(sysconfig.get_paths()[name]).resolve() for name in names)


def installed(file: Path) -> bool:
    """Whether a file is Python's own or lies beside other packages."""
    return any(file.is_relative_to(place) for place in _places()) or "site-packages" in file.parts
