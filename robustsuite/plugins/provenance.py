"""What code a result came from: the suite's core, the plug-ins that made it, built in or a stranger's, and libraries.

A key holds the core once (`code`), and of plug-ins and factories the files of those that take part (`sources`), so
that an attack that is added or edited makes no other result new. What remains outside of keys: plug-ins that are looked
up by a name that is computed, files that a plug-in reads as it runs, and libraries but for the few in `LIBRARIES`. What
a stranger's code does to the process that it is loaded in is no part of keys either: it is undone between nodes, and
records and what runs share say which was loaded (`foreign`).
"""

from __future__ import annotations

import contextlib
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
from robustsuite.core.errors import RequestError
from robustsuite.plugins.loading import factory_digest, load_factory, source_digest
from robustsuite.plugins.local_code import PLUGINS, looked_up

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
    """A digest of the suite's core that every result depends on, and of the versions of the libraries below it.

    It is part of every key: a result of other code is made again, never shown as if nothing had changed. Attacks and
    defences are no part of it; see `sources`.
    """
    return _digest_of(_OWN)


@cache
def all_code() -> str:
    """As `code`, with all built-in plug-ins: what machines that work on one run must have alike."""
    return _digest_of(_OWN, *PLUGINS)


def _digest_of(*packages: str) -> str:
    found = hashlib.sha256()
    for name in packages:
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
    """Digests of the files of plug-ins in these parts, built in or a stranger's, and of factories named as text.

    Args:
        *parts: Dataclasses, classes, containers of them, or anything else, which is passed over.

    Returns:
        Class or factory name -> digest of its file and of what that imports of the user's own and of plug-ins.
    """
    return dict(sorted(set(_sources(parts))))


def foreign(*parts: Any) -> dict[str, str]:
    """What strangers' code this process has loaded: plug-ins that are registered, and what these parts hold.

    Args:
        *parts: As for `sources`.

    Returns:
        Class or factory name -> digest of its file and of what that imports.
    """
    from robustsuite.plugins import registry

    kinds = (registry.scenarios, registry.attacks, registry.defenses, registry.panels)
    entries = [entry.cls for known in kinds for entry in known.all()]
    found = sources([cls for cls in entries if cls.__module__.partition(".")[0] != _OWN], *parts)
    return {name: at for name, at in found.items() if name.partition(".")[0] != _OWN}


def foreign_digest(*parts: Any) -> str:
    """One digest over `foreign`, empty where no strangers' code is loaded."""
    loaded = foreign(*parts)
    return digest(loaded) if loaded else ""


def strange(*parts: Any) -> bool:
    """Whether strangers' code takes part in these, as for `sources`."""
    return any(name.partition(".")[0] != _OWN for name in sources(*parts))


def _sources(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _sources(item)
    elif isinstance(value, type):
        yield from _of_class(value)
    elif dataclasses.is_dataclass(value):
        yield from _of_class(type(value))
        for field in dataclasses.fields(value):
            given = getattr(value, field.name)
            if field.name == "factory" and isinstance(given, str):
                yield given, factory_digest(given) or _typed_digest(load_factory(given))
            else:
                yield from _sources(given)


def _of_class(kind: type) -> Iterator[tuple[str, str]]:
    """A class that is no part of the core, and the plug-ins that its file looks up by name."""
    if kind.__module__.partition(".")[0] == _OWN and not kind.__module__.startswith(PLUGINS):
        return
    yield f"{kind.__module__}.{kind.__qualname__}", source_digest(kind) or _typed_digest(kind)
    from robustsuite.plugins import registry

    for which, name in _look_ups(kind):
        known = registry.attacks if which == "attacks" else registry.defenses
        with contextlib.suppress(RequestError):
            cls = known.get(name).cls
            yield f"{cls.__module__}.{cls.__qualname__}", source_digest(cls) or _typed_digest(cls)


def _look_ups(kind: type) -> tuple[tuple[str, str], ...]:
    try:
        file = inspect.getsourcefile(kind)
    except (TypeError, OSError):
        return ()
    return looked_up(file) if file is not None and Path(file).is_file() else ()


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
