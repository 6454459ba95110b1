"""Names to plug-ins: `register.attack`, `.defense`, `.scenario` and `.panel`, and how they are found.

Built-ins and installed packages are found as entry points of the group `robustsuite.plugins` (`discovery`), and single
files through `load_file`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, Final, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from robustsuite.core import checks
from robustsuite.core.ball import NORMS
from robustsuite.core.errors import RequestError, UnknownPluginError
from robustsuite.core.process_state import strangers_code
from robustsuite.core.renamed import ATTACKS
from robustsuite.plugins.discovery import import_all
from robustsuite.plugins.docstrings import parse_docstring
from robustsuite.plugins.plugin_rules import check_class, check_game, check_panel, no_function, raised, refusal
from robustsuite.storage.files import absent

T = TypeVar("T")
FILES: Final = "robustsuite_plugin_"  # what modules of single files are called, before the file's own name


@dataclasses.dataclass(frozen=True)
class Entry:
    """One registered plug-in.

    Args:
        name: Its name in suite files.
        kind: `attack`, `defense`, `scenario` or `panel`.
        cls: The frozen dataclass.
        scenario: The game that an attack plays; empty for others.
        access: The knowledge that an attack asks for.
        resolves: Flags that this attack can resolve.
        taxonomy: Ids in NIST AI 100-2, MITRE ATLAS or OWASP ML Top 10.
        control: Whether this attack is a baseline that a real attack must beat.
    """

    name: str
    kind: str
    cls: type[Any]
    scenario: str = ""
    access: str = ""
    resolves: tuple[str, ...] = ()
    taxonomy: tuple[str, ...] = ()
    control: bool = False

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.cls) or "").splitlines()[0]

    @property
    def game(self) -> type[Any]:
        """The class of the scenario that an attack plays, or of a scenario itself."""
        return self.cls if self.kind == "scenario" else scenarios.get(self.scenario).cls

    @property
    def norms(self) -> tuple[str, ...]:
        """Norms of the balls that an evasion attack can play in: its class's `norms`, or all."""
        return tuple(getattr(self.cls, "norms", NORMS))

    @property
    def minimum_norm(self) -> bool:
        """Whether an evasion attack looks for the nearest adversarial input, whatever the radius: its class says so."""
        return bool(getattr(self.cls, "minimum_norm", False))

    @property
    def parameters(self) -> tuple[dataclasses.Field[Any], ...]:
        """Fields that a suite file may set."""
        return tuple(f for f in dataclasses.fields(self.cls) if f.init)

    def make(self, options: dict[str, Any] | None = None) -> Any:
        """An instance with these options; unknown names and wrong types are request errors."""
        options = checks.plain_numbers(dict(options or {}))
        names = [f.name for f in self.parameters]
        for key in options:
            if key not in names:
                near = difflib.get_close_matches(key, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"{self.name} takes {', '.join(names) or 'no options'}"
                raise RequestError(f"expected an option of {self.name}, got {key}={options[key]!r}; {hint}", name=key)
        for key, value in options.items():
            no_function(self.name, key, value, parse_docstring(self.cls).arguments.get(key, ""))
        try:
            given = {key: self._coerce(key, value) for key, value in options.items()}
            if self.cls.__module__.startswith("robustsuite."):
                return self.cls(**given)
            with strangers_code(f"{self.kind}={self.name!r}, as it was made,"):
                return self.cls(**given)
        except TypeError as error:
            raise RequestError(f"expected all required options of {self.name}, got {options!r}; {error}") from error

    def _coerce(self, key: str, value: Any) -> Any:
        hint = inspect.get_annotations(self.cls, eval_str=True).get(key) or _inherited_hint(self.cls, key)
        if not _is_plain_type(hint):
            return value
        try:
            return TypeAdapter(hint, config=ConfigDict(strict=False)).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise RequestError(
                f"expected {self.name}.{key} of type {_type_name(hint)}, got {key}={value!r}; {reason}", name=key
            ) from error


def _inherited_hint(cls: type[Any], key: str) -> Any:
    for base in cls.__mro__:
        hints = inspect.get_annotations(base, eval_str=True)
        if key in hints:
            return hints[key]
    return Any


def _is_plain_type(hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return all(_is_plain_type(part) for part in get_args(hint))
    return hint in (int, float, str, bool, type(None)) or get_origin(hint) in (tuple, list, dict)


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


class Offer(NamedTuple):
    """A name behind a prefix: what it needs, and why it cannot be used, empty where it can."""

    name: str
    needs: tuple[str, ...] = ()
    refused: str = ""


class Prefix(NamedTuple):
    """What names that begin with a prefix stand for.

    Attributes:
        resolve: The entry of what stands behind the prefix.
        offers: Lists what may; may import it.
        scenario: The game that they play, where it is one.
        summary: One line for lists.
    """

    resolve: Callable[[str], Entry]
    offers: Callable[[], Iterable[Offer]] = tuple
    scenario: str = ""
    summary: str = ""


class Registry:
    """Names to entries of one kind, filled on first look-up."""

    def __init__(self, kind: str, package: str = "") -> None:
        self._kind, self._package = kind, package
        self._entries: dict[str, Entry] = {}
        self._added: list[str] | None = None
        self._prefixes: dict[str, Prefix] = {}

    def add(self, entry: Entry) -> None:
        """Register; a collision names both modules."""
        if self._kind == "attack" and entry.name in ATTACKS:  # records and suites mean the other one by it
            raise RequestError(
                f"expected a name of its own, got attack={entry.name!r}, which {ATTACKS[entry.name]!r} was called "
                f"before; choose another"
            )
        known = self._entries.get(entry.name)
        if known is not None and known.cls.__qualname__ + known.cls.__module__ != (
            entry.cls.__qualname__ + entry.cls.__module__
        ):
            raise RequestError(
                f"expected one {self._kind} called {entry.name!r}, got it from {known.cls.__module__} and "
                f"{entry.cls.__module__}; rename one of them"
            )
        if self._added is not None and entry.name in self._added:
            raise RequestError(f"expected one {self._kind} called {entry.name!r}, got it twice; rename one of them")
        self._entries[entry.name] = entry
        if self._added is not None:
            self._added.append(entry.name)

    @contextmanager
    def adding(self) -> Iterator[list[str]]:
        """Names that are registered in this block, each once; where it raises, the registry is as it was."""
        kept, before, made = dict(self._entries), self._added, list[str]()
        self._added = made
        try:
            yield made
        except BaseException:
            self._entries = kept
            raise
        finally:
            self._added = before

    def add_prefix(self, prefix: str, stands_for: Prefix) -> None:
        """Resolve every name `prefix:REST` so."""
        self._prefixes[prefix] = stands_for

    @property
    def prefixes(self) -> Mapping[str, Prefix]:
        """What names that begin so stand for."""
        discover()
        return self._prefixes

    def offers(self) -> list[Offer]:
        """Every name behind a prefix; may import what it stands for."""
        return [o._replace(name=f"{prefix}:{o.name}") for prefix, of in self.prefixes.items() for o in of.offers()]

    def present(self) -> Mapping[str, Entry]:
        """What its own package registers and has been registered besides; nothing else is imported for it."""
        importlib.import_module(self._package)
        return self._entries

    def find(self, name: str) -> Entry | None:
        """The entry of this name, None where there is none; others are imported only where it is not at hand."""
        if name not in self.present():
            discover()
        return self._entries.get(name)

    def get(self, name: str) -> Entry:
        """The entry of this name; an unknown name lists the near matches."""
        discover()
        prefix, colon, rest = name.partition(":")
        if colon and prefix in self._prefixes:
            return self._prefixes[prefix].resolve(rest)
        if name not in self._entries and self._kind == "attack" and name in ATTACKS:
            name = ATTACKS[name]
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(sorted(self._entries))}"
            got = f"{self._kind}={name!r}"
            raise UnknownPluginError(f"expected a known {self._kind}, got {got}; {hint}", name=self._kind)
        return self._entries[name]

    def all(self) -> tuple[Entry, ...]:
        """Every entry, by name."""
        discover()
        return tuple(self._entries[name] for name in sorted(self._entries))


scenarios = Registry("scenario", "robustsuite.scenarios")
attacks = Registry("attack")
defenses = Registry("defense")
panels = Registry("panel")


class _Register:
    """The decorators."""

    @staticmethod
    def attack(
        name: str,
        *,
        scenario: str | None = None,
        access: str | None = None,
        resolves: tuple[str, ...] = (),
        taxonomy: tuple[str, ...] = (),
        control: bool = False,
    ) -> Callable[[type[T]], type[T]]:
        """Register a frozen dataclass `(view, streams) -> artefact` as an attack of this scenario and access.

        The scenario is registered before, in the same file or in a module that this one imports.

        Raises:
            PluginError: What is missing or wrong, with file and line.
        """

        def add(cls: type[T]) -> type[T]:
            claimed = _claim(name, cls, "attack")
            check_game(cls, scenario, access, {name: e.cls.accesses for name, e in scenarios.present().items()})
            entry = Entry(claimed, "attack", cls, scenario or "", access or "", resolves, taxonomy, control)
            attacks.add(entry)
            return cls

        return add

    @staticmethod
    def scenario(name: str) -> Callable[[type[T]], type[T]]:
        """Register a frozen dataclass that is a `Scenario` as a game; its `name` is set to this one.

        Raises:
            PluginError: What is missing or wrong, with file and line.
        """

        def add(cls: type[T]) -> type[T]:
            claimed = _claim(name, cls, "scenario")
            cls.name = claimed  # type: ignore[attr-defined]  # checked above
            scenarios.add(Entry(claimed, "scenario", cls))
            return cls

        return add

    @staticmethod
    def defense(name: str, *, taxonomy: tuple[str, ...] = ()) -> Callable[[type[T]], type[T]]:
        """Register a frozen dataclass `recipe -> recipe` as a defence.

        Raises:
            PluginError: What is wrong, with file and line.
        """

        def add(cls: type[T]) -> type[T]:
            defenses.add(Entry(_claim(name, cls, "defense"), "defense", cls, taxonomy=taxonomy))
            return cls

        return add

    @staticmethod
    def panel(name: str) -> Callable[[type[T]], type[T]]:
        """Register a frozen dataclass `exhibits -> sections` as a panel of the report.

        Its class says by `asks` which kind of payload it is given, and by `order` (100 where it does not say) where it
        stands. It is called with every `Exhibit` of that kind, where there are any, and returns a `Section`, several,
        or None.

        Raises:
            PluginError: What is missing or wrong, with file and line.
        """

        def add(cls: type[T]) -> type[T]:
            claimed = _claim(name, cls, "panel")
            check_panel(cls)
            panels.add(Entry(claimed, "panel", cls))
            return cls

        return add


def _claim(name: str, cls: type[Any], kind: str) -> str:
    check_class(cls, kind)
    cls.plugin_name = name  # read by `canonical.plain`
    return name


register = _Register()
_found = False
_lock = threading.RLock()


def discover() -> None:
    """Import every built-in and installed plug-in once."""
    global _found
    with _lock:
        if _found:
            return
        _found = True
        try:
            scenarios.present()
            import_all()
        except BaseException:
            _found = False
            raise


def load_file(path: str | Path) -> None:
    """Import one plug-in file, whose decorators register what it holds; a refused file registers nothing.

    Raises:
        RequestError: The file is absent or no Python file.
        PluginError: It cannot be imported, or holds what is no plug-in, or none: one line with file and line.
    """
    file = Path(path).expanduser()
    if not file.is_file() or file.suffix != ".py":
        remedy = "its name must end in .py" if file.is_file() else absent(file)
        raise RequestError(f"expected an existing .py file, got plugin={str(path)!r}; {remedy}")
    discover()
    name = f"{FILES}{file.stem}"
    file = file.resolve()
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise RequestError(f"expected an importable file, got plugin={str(path)!r}; check its name")
    module, before = importlib.util.module_from_spec(spec), sys.modules.get(name)
    try:
        with ExitStack() as adding:
            kinds = [adding.enter_context(of.adding()) for of in (scenarios, attacks, defenses, panels)]
            adding.enter_context(strangers_code(f"the plug-in file {path}"))
            sys.modules[name] = module
            spec.loader.exec_module(module)
            if not any(kinds):
                remedy = "decorate a frozen dataclass with @register.attack(...), .defense, .scenario or .panel"
                raise refusal(file, 1, "a plug-in", "a file that registers none", remedy)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a stranger's file may raise anything, and even ask to exit
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
        raise raised(file, error) from error
