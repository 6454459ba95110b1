"""Whose code may run: what a suite file names is data until the user who types the command stands behind it."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from robustsuite.core import checks
from robustsuite.core.errors import UntrustedCodeError
from robustsuite.plugins.local_code import installed
from robustsuite.storage.files import located

_MAIN: Final = "__main__"
_OWN: Final = Path(__file__).resolve().parent.parent  # the suite's own functions are no factories of anybody's


@dataclass(frozen=True)
class Trust:
    """Which code the text of a suite may name.

    Args:
        named: Modules, each with all that lies below it, and files that the user typed to be trusted.
        typed: Whole targets that the user typed, as values of the suite.
        folder: The working folder, whose own files and modules run too; None where only what was typed does.
        defers: Whether what is not trusted is left out and listed, as a dry run does, rather than refused.

    Raises:
        RequestError: Something to be trusted that is neither a module nor a file.
    """

    named: tuple[str, ...] = ()
    typed: frozenset[str] = frozenset()
    folder: Path | None = None
    defers: bool = False

    def __post_init__(self) -> None:
        for name in self.named:
            if not name.endswith(".py") and not all(part.isidentifier() for part in name.split(".")):
                remedy = "name what holds the function, such as my_pkg.nets or path/to/nets.py"
                raise checks.fail("a module or a .py file", "trust", name, remedy)

    @contextmanager
    def held(self) -> Iterator[None]:
        """In this block factories are loaded under this trust; without one, whoever calls has typed their names."""
        before = _held.set(self)
        try:
            yield
        finally:
            _held.reset(before)

    def allows_file(self, path: str | Path) -> bool:
        """Whether a file may run: it is named, or is the user's own and lies in the working folder, links followed."""
        file = located(path).resolve()
        return any(file == name for name in self._files()) or self._is_here(file)

    def check_file(self, path: str, target: str) -> None:
        """Refuse a factory's file that is not trusted; nothing is run to find out.

        Raises:
            UntrustedCodeError: The file, and what to type to run it.
        """
        if target not in self.typed and not self.allows_file(path):
            raise self._refusal(target, path)

    def check_name(self, name: str, target: str) -> None:
        """Refuse a factory's module that was not typed where only such run, before anything is looked for.

        Raises:
            UntrustedCodeError: The module, and what to type to run it.
        """
        if self.folder is None and target not in self.typed and not self._is_named(name):
            raise self._refusal(target, name)

    def check_module(self, name: str, target: str) -> None:
        """Refuse a factory's module that is not trusted; only packages that are trusted are run to find out.

        Raises:
            UntrustedCodeError: The module, and what to type to run it.
        """
        self.check_name(name, target)
        if target in self.typed or self._is_named(name) or name == _MAIN:
            return
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            try:
                spec = importlib.util.find_spec(".".join(parts[:count]))  # imports what stands before the last dot
            except ValueError:  # a module that was made by hand, and has no place
                raise self._refusal(target, name) from None
            if spec is None:
                return  # there is none, as its import will say
            bare = spec.origin is None and spec.submodule_search_locations is not None  # a folder without a file to run
            if not bare and not (spec.has_location and spec.origin and self._is_here(Path(spec.origin).resolve())):
                raise self._refusal(target, name)

    def check_written(self, steps: Sequence[Any], target: str) -> None:
        """Refuse what a trusted module only imported: `nets.py:os.system` is no function of `nets.py`.

        Args:
            steps: The module, and what each part of the attribute leads to.
            target: What the suite says.

        Raises:
            UntrustedCodeError: The target, and what to type to run it.
        """
        if target in self.typed:
            return
        holder = steps[0]
        for step in steps:
            holder = step if inspect.ismodule(step) else holder
            module, file = _home(step, holder)
            main = module == _MAIN and self.folder is not None
            if not main and not (file and (self.allows_file(file) or self._is_below_named(Path(file).resolve()))):
                raise self._refusal(target, module)

    def _is_here(self, file: Path) -> bool:
        own = installed(file) or file.is_relative_to(_OWN)
        return self.folder is not None and file.is_relative_to(self.folder.resolve()) and not own

    def _is_named(self, module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in self.named)

    def _files(self) -> Iterator[Path]:
        yield from (located(name).resolve() for name in self.named if name.endswith(".py"))

    def _is_below_named(self, file: Path) -> bool:
        """Whether a file belongs to a package of which some module is named: packages hand out what lies deeper."""
        for name in self.named:
            top = None if name.endswith(".py") else sys.modules.get(name.partition(".")[0])
            places = getattr(top, "__path__", None) or [getattr(top, "__file__", None)]
            if any(place is not None and file.is_relative_to(Path(place).resolve()) for place in places):
                return True
        return False

    def _refusal(self, target: str, holder: str) -> UntrustedCodeError:
        wanted = "code that is trusted" if self.folder is None else "code of the working folder"
        return UntrustedCodeError(
            f"expected {wanted}, got factory={target!r}; a suite is data: to run this code type --trust {holder} (in "
            f"Python trust=[{holder!r}])",
            name="factory",
        )


_held: ContextVar[Trust | None] = ContextVar("trust", default=None)


def held() -> Trust | None:
    """The trust under which factories are loaded; None where their names were typed."""
    return _held.get()


@contextmanager
def released() -> Iterator[None]:
    """In this block runs code that is trusted, and what it names itself is its own affair."""
    before = _held.set(None)
    try:
        yield
    finally:
        _held.reset(before)


def _home(thing: Any, holder: ModuleType) -> tuple[str, str | None]:
    """Name and file of the module in which a function or a class is written; of its holder for any other object.

    What is built into Python, or lies in an extension module that is not the holder, has no file.
    """
    thing = inspect.unwrap(thing) if callable(thing) else thing
    thing = getattr(thing, "__func__", thing)
    if inspect.isfunction(thing):
        return thing.__module__, thing.__code__.co_filename
    if inspect.isbuiltin(thing) and thing.__self__ is not holder:
        return str(thing.__module__), None
    if inspect.isclass(thing):
        return thing.__module__, getattr(sys.modules.get(thing.__module__), "__file__", None)
    module = thing if inspect.ismodule(thing) else holder
    return module.__name__, getattr(module, "__file__", None)
