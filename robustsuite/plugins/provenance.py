"""What code a result came from: the suite's own, a stranger's plug-ins and factories, and the libraries below."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

from robustsuite.core.canonical import digest
from robustsuite.plugins.loading import factory_digest, load_factory, source_digest

LIBRARIES: Final = ("torch", "torchvision", "adversarial-robustness-toolbox", "opacus", "numpy")
_OWN: Final = "robustsuite"
_adopted: bytes | None = None
# These only show or decide what was measured; a change of theirs changes no result.
_SHOWS: Final = ("cli", "report", "results", "pytest_plugin", "testing")


@cache
def version(package: str) -> str:
    """The installed version of a package, empty where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache
def code() -> str:
    """A digest of the suite's code that results depend on, and of the versions of the libraries below it.

    It is part of every key: a result of other code is made again, never shown as if nothing had changed.
    """
    found = hashlib.sha256()
    for name in (_OWN, f"{_OWN}.attacks", f"{_OWN}.defenses"):
        for folder in sys.modules[_OWN].__path__ if name == _OWN else _folders(name):
            for file in sorted(Path(folder).rglob("*.py")):
                place = file.relative_to(folder)
                if name == _OWN and place.parts[0] in (*_SHOWS, "attacks", "defenses"):
                    continue
                found.update(f"{name}:{place.as_posix()}\n".encode())
                found.update(file.read_bytes())
    return digest([found.hexdigest(), {name: version(name) for name in LIBRARIES}])


def _folders(package: str) -> list[str]:
    import importlib.util

    spec = importlib.util.find_spec(package)
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def sources(*parts: Any) -> dict[str, str]:
    """Digests of the files of strangers' code in these parts: plug-in classes, and factories named as text.

    Args:
        *parts: Dataclasses, containers of them, or anything else, which is passed over.

    Returns:
        Class or factory name -> digest of its file and of what that imports of the user's own.
    """
    return dict(sorted(set(_sources(parts))))


def _sources(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _sources(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        if kind.__module__.partition(".")[0] != _OWN:
            yield f"{kind.__module__}.{kind.__qualname__}", source_digest(kind) or _typed_digest(kind)
        for field in dataclasses.fields(value):
            given = getattr(value, field.name)
            if field.name == "factory" and isinstance(given, str):
                yield given, factory_digest(given) or _typed_digest(load_factory(given))
            else:
                yield from _sources(given)


def _typed_digest(thing: Any) -> str:
    """The digest of what was typed into a shell, a notebook or standard input, and stands in no file."""
    content = _typed(sys.modules.get(getattr(thing, "__module__", None) or ""))
    return hashlib.sha256(content).hexdigest()[:24] if content else ""


def main_module() -> bytes:
    """What stands in the main module where no file holds it, for a process that has another one."""
    return _typed(sys.modules["__main__"])


def adopt(main: bytes) -> None:
    """Read `main` from now on where the main module is asked for: what is played here was written there."""
    global _adopted
    _adopted = main


def _typed(module: ModuleType | None) -> bytes:
    """What stands in a module that no file holds: its functions, its classes, and its plain values."""
    if module is not None and module.__name__ == "__main__" and _adopted is not None:
        return _adopted
    if module is None or getattr(module, "__spec__", None) is not None:
        return b""
    own = {
        name: value
        for name, value in sorted(vars(module).items())
        if getattr(value, "__module__", "") == module.__name__
        # A shell keeps what was typed, and what came of it, under names such as _i1 and _1.
        or (type(value) in (bool, int, float, str) and not name.startswith("_"))
    }
    return repr({name: _code(value) for name, value in own.items()}).encode()


def _code(value: Any) -> Any:
    """What a function or a class does, or what a constant is, without addresses and line numbers."""
    if isinstance(value, type):
        return [(name, _code(part)) for name, part in sorted(vars(value).items()) if inspect.isfunction(part)]
    if inspect.isfunction(value):
        return _code(value.__code__), repr(value.__defaults__), repr(value.__kwdefaults__)
    if isinstance(value, CodeType):
        return value.co_code.hex(), value.co_names, [_code(part) for part in value.co_consts]
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)
