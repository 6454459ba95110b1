"""What worker processes need of the program that started them, without running it again.

`multiprocessing` imports the caller's main module in every process that it starts. That runs a script without a main
guard once more for each, and fails where the module is no file: text on standard input, a notebook, `python -c`. So the
main module is hidden while a process starts, and what the caller registered goes along by name, or by value where it
stands in the main module itself.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from robustsuite.core.errors import RequestError
from robustsuite.plugins import provenance, registry
from robustsuite.suite.schema import Suite

_MAIN: Final = "__main__"
_OWN: Final = "robustsuite"
_hiding = threading.Lock()


@contextmanager
def main_hidden() -> Iterator[None]:
    """What starts in this block by `multiprocessing` finds no main module to import."""
    with _hiding:
        main = sys.modules[_MAIN]
        kept: dict[str, Any] = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
        vars(main).pop("__file__", None)
        main.__spec__ = None
        try:
            yield
        finally:
            vars(main).update(kept)


@dataclass(frozen=True)
class Belongings:
    """What a caller registered beside the suite's own plug-in files.

    Args:
        modules: Names of modules that registered plug-ins when they were imported.
        files: Plug-in files that were loaded.
        written: Plug-ins and factories that stand in the main module itself, pickled by value.
        main: What their keys are made of where no file holds the main module.
    """

    modules: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    written: bytes = b""
    main: bytes = b""

    def unpack(self) -> None:
        """Register all of it in this process.

        A module that cannot be imported here is passed over: whoever needs what it registers is told that it is
        unknown.
        """
        registry.discover()
        for name in self.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        for file in self.files:
            with contextlib.suppress(RequestError):
                registry.load_file(file)
        if self.written:
            provenance.adopt(self.main)
            entries, factories = pickle.loads(self.written)  # by the process that started this one
            vars(sys.modules[_MAIN]).update(factories)
            for entry in entries:
                (registry.attacks if entry.kind == "attack" else registry.defenses).add(entry)


def belongings(suite: Suite) -> Belongings:
    """What workers need of this program to play the suite.

    Raises:
        RequestError: Something in the main module that no other process can be given.
    """
    entries = [entry for known in (registry.attacks, registry.defenses) for entry in known.all()]
    modules = dict.fromkeys(entry.cls.__module__ for entry in entries)
    foreign = [name for name in modules if name.partition(".")[0] != _OWN and name != _MAIN]
    loaded = [name for name in foreign if name.startswith(registry.FILES)]
    files = [getattr(sys.modules.get(name), "__file__", None) for name in loaded]
    return Belongings(
        tuple(name for name in foreign if name not in loaded),
        tuple(file for file in files if file is not None),
        _written([entry for entry in entries if entry.cls.__module__ == _MAIN], _factories(suite.values())),
        provenance.main_module(),
    )


def _factories(values: Any) -> dict[str, Any]:
    """What the suite names as a factory in the main module, by its name there."""
    if isinstance(values, (list, tuple)):
        return {name: found for item in values for name, found in _factories(item).items()}
    if not isinstance(values, dict):
        return {}
    found = {name: what for item in values.values() for name, what in _factories(item).items()}
    module, _, name = str(values.get("factory", "")).partition(":")
    name = name.partition(".")[0]
    if module == _MAIN and hasattr(sys.modules[_MAIN], name):
        found[name] = getattr(sys.modules[_MAIN], name)
    return found


def _written(entries: list[registry.Entry], factories: dict[str, Any]) -> bytes:
    if not entries and not factories:
        return b""
    import cloudpickle

    try:
        packed: bytes = cloudpickle.dumps((entries, factories))
    except Exception as error:  # pickling a stranger's objects may raise anything
        names = ", ".join([*(repr(entry.name) for entry in entries), *factories])
        raise RequestError(
            f"expected plug-ins and factories that worker processes can be given, got {names} of the main module "
            f"({type(error).__name__}: {error}); move them to a file of their own and import it, or set workers=1"
        ) from error
    return packed
