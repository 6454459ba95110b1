"""The files that a suite names, as bytes, for workers on machines that lack them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from robustsuite.plugins import registry
from robustsuite.storage import files
from robustsuite.suite.schema import Suite

_MODULES: Final = "modules"


@dataclass(frozen=True)
class Carried:
    """Plug-in files, factories' files with the Python files beside them, and checkpoints.

    Args:
        plugins: Plug-in files, as the suite names them.
        contents: File as the suite names it -> its full path here and the content of each file that goes with it.
        modules: Path below a folder on the import path -> content, for factories named as `package.module:function`.
    """

    plugins: tuple[str, ...]
    contents: dict[str, tuple[str, dict[str, bytes]]]
    modules: dict[str, bytes]

    @classmethod
    def of(cls, suite: Suite) -> Self:
        """Read what this suite names; its data set is not among it, for the data themselves are sent."""
        contents = {name: _read(Path(name), ()) for name in suite.plugins}
        modules: dict[str, bytes] = {}
        for key, value in _named({k: v for k, v in suite.values().items() if k != "dataset"}):
            place = value.rpartition(":")[0] if key == "factory" else value
            if key == "checkpoint":
                contents[place] = _read(Path(place), ())
            elif place.endswith(".py"):
                path = Path(place).expanduser()
                contents[place] = _read(path, path.parent.glob("*.py"))
            else:
                modules |= _package(place.partition(".")[0])
        return cls(suite.plugins, contents, modules)

    def unpack(self, folder: Path) -> dict[str, str]:
        """Write the files below `folder`, let them stand in for those that the suite names, and load the plug-ins.

        Returns:
            Path here -> path where it came from.
        """
        origins: dict[str, str] = {}
        for number, (named, (origin, contents)) in enumerate(self.contents.items()):
            home = folder / str(number)
            _write(home, contents)
            files.substitute(named, home / Path(origin).name)
            origins[str(home)] = str(Path(origin).parent)
        if self.modules:
            _write(folder / _MODULES, self.modules)
            sys.path.append(str(folder / _MODULES))
        for plugin in self.plugins:
            registry.load_file(files.located(plugin))
        return origins


def _named(values: Any) -> Iterator[tuple[str, str]]:
    """Every factory and every checkpoint, however deep."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key in ("factory", "checkpoint") and isinstance(value, str):
                yield key, value
            else:
                yield from _named(value)
    elif isinstance(values, (list, tuple)):
        for item in values:
            yield from _named(item)


def _read(path: Path, beside: Iterator[Path] | tuple[Path, ...]) -> tuple[str, dict[str, bytes]]:
    whole = path.expanduser().resolve()
    return str(whole), {file.name: file.read_bytes() for file in (whole, *beside) if file.is_file()}


def _package(name: str) -> dict[str, bytes]:
    """The Python files of a top-level package or module, where it lies in the working folder; else it is installed."""
    spec = importlib.util.find_spec(name)
    places = [] if spec is None else [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.origin else ())]
    known = {Path(place).resolve() for place in places}
    here = Path.cwd().resolve()
    found = sorted((here / name).rglob("*.py")) if here / name in known else []
    found += [here / f"{name}.py"] if here / f"{name}.py" in known else []
    return {file.relative_to(here).as_posix(): file.read_bytes() for file in found}


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
