"""What a plug-in has to be, and one line with file and line for one that is not."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from robustsuite.core.ball import NORMS
from robustsuite.core.errors import RequestError
from robustsuite.core.metrics import MetricSpec
from robustsuite.core.renamed import ACCESSES

_PLAIN: Final = (int, float, str, bool, type(None), tuple, list, dict, Any, object)
_READ: Final = ("norms", "minimum_norm", "plugin_name", "asks", "order")  # class attributes that the suite reads
_GAME: Final = ("arrange", "require", "views", "score", "review", "accesses", "options", "sweeps", "metrics")
_WRITE: Final = "@dataclass(frozen=True, kw_only=True)"
_MOVED: Final = (
    "import it from robustsuite.core, .access, .plugins or .training; where a module lies now is in docs/adr/0013 and "
    "CHANGELOG.md"
)
_FUNCTIONS: Final = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)


class PluginError(RequestError):
    """A plug-in that cannot be used; the message starts with its file and line."""


def shown_path(path: str | Path) -> str:
    """A path as people type it: below the working folder where it lies there."""
    full, here = Path(path).resolve(), Path.cwd().resolve()
    return str(full.relative_to(here)) if full.is_relative_to(here) else str(full)


def refusal(path: str | Path, line: int, expected: str, got: str, remedy: str) -> PluginError:
    """The one form that all these errors have."""
    return PluginError(f"{shown_path(path)}:{line}: expected {expected}, got {got}; {remedy}")


def raised(path: str | Path, error: BaseException) -> PluginError:
    """What importing a file raised, with the line of that file where it did."""
    if isinstance(error, PluginError):
        return error
    told = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename == str(path):
        got = f"{type(error).__name__}: {error.msg}"
        return refusal(path, error.lineno or 1, "Python", got, "mend that line")
    line, last, trace = 1, "", error.__traceback__
    while trace is not None:
        last = trace.tb_frame.f_code.co_filename
        line = trace.tb_lineno if last == str(path) else line
        trace = trace.tb_next
    if isinstance(error, RequestError):
        return PluginError(f"{shown_path(path)}:{line}: {told}")
    got = f"{type(error).__name__}: {told}" if told else type(error).__name__
    if last == dataclasses.__file__:
        return refusal(path, line, "a dataclass", got, "give fields annotations, and tuples for lists as defaults")
    own = isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "robustsuite"
    remedy = _MOVED if own else "mend that line, or install what it needs"
    return refusal(path, line, "a file that can be imported", got, remedy)


def check_class(cls: Any, kind: str) -> None:
    """Refuse a class that is no plug-in: no frozen dataclass with a docstring, plain fields and the right call.

    Args:
        cls: What stands below the register line.
        kind: `attack`, `defense`, `scenario` or `panel`.

    Raises:
        PluginError: The first thing that is wrong, with file and line.
    """
    place = _Place(cls)
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        raise place.refusal("", "a frozen dataclass", _named(cls), f"write {_WRITE} below the register line")
    fields = [f for f in dataclasses.fields(cls) if f.init]
    if not cls.__dataclass_params__.frozen or not all(f.kw_only for f in fields):  # type: ignore[attr-defined]
        raise place.refusal("", "a frozen dataclass with keywords only", _named(cls), f"write {_WRITE}")
    if not cls.__doc__ or cls.__doc__.startswith(f"{cls.__name__}("):  # what dataclasses write themselves
        raise place.refusal("", "a docstring", f"none in {cls.__name__}", "say what it does in one line")
    _check_attributes(cls, place)
    if kind == "scenario":
        _check_scenario(cls, place)  # whose fields need not be plain: a ball is one
    else:
        _check_fields(cls, fields, place)
    _check_calls(cls, kind, place)
    named = list(place.losses())
    if not named:
        return
    from robustsuite.core import losses  # imports torch

    for name, value, line in named:
        if value not in losses.NAMED:
            remedy = f"the suite's losses are {', '.join(losses.NAMED)}"
            raise refusal(place.path, line, "the name of a loss", f"{name}={value!r}", remedy)


def check_game(cls: Any, scenario: str | None, access: str | None, games: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse an attack of a game that there is not, or with knowledge that its game does not hand out.

    Raises:
        PluginError: What there is, with file and line.
    """
    place = _Place(cls)
    now = f"{access!r} is {ACCESSES[access]!r} now; " if access in ACCESSES else ""
    example = scenario if scenario is not None and scenario in games else max(games, key=lambda name: len(games[name]))
    remedy = f'{now}write @register.attack("name", scenario="{example}", access="{games[example][0]}"), say'
    if scenario is None or scenario not in games:
        other = "" if scenario is None else "; import the module that registers a game of your own before"
        raise place.refusal("", f"a scenario ({', '.join(games)})", f"scenario={scenario!r}", remedy + other)
    if access is None or access not in games[scenario]:
        allowed = ", ".join(games[scenario])
        raise place.refusal("", f"an access of {scenario} ({allowed})", f"access={access!r}", remedy)


def check_panel(cls: Any) -> None:
    """Refuse a panel that asks for no kind of payload, or whose place among the panels is no number.

    Raises:
        PluginError: What is missing or wrong, with file and line.
    """
    from robustsuite.core.payloads import KINDS

    place, asks, order = _Place(cls), getattr(cls, "asks", None), getattr(cls, "order", 0)
    if asks not in KINDS.values():
        kinds = ", ".join(kind.__name__ for kind in KINDS.values())
        remedy = "import it from robustsuite.core, and write asks = Scores"
        raise place.refusal("asks", f"a kind of payload ({kinds})", f"asks={asks!r}", remedy)
    if type(order) is not int:
        raise place.refusal("order", "a whole number", f"order={order!r}", "write order = 100")


def no_function(name: str, key: str, value: Any, described: str) -> None:
    """Refuse a function where options are plain values, which records keep and other processes read.

    Raises:
        RequestError: What the option is.
    """
    if isinstance(value, Mapping):
        for item in value.values():
            no_function(name, key, item, described)
    elif isinstance(value, (list, tuple)):
        for item in value:
            no_function(name, key, item, described)
    elif isinstance(value, _FUNCTIONS):
        got = f"{key}={getattr(value, '__name__', type(value).__name__)} (a function)"
        remedy = f"{key}: {described}" if described else "give numbers, text or lists"
        raise RequestError(f"expected a plain value for {name}.{key}, got {got}; {remedy}", name=key)


def _named(cls: Any) -> str:
    return f"class {cls.__name__}" if isinstance(cls, type) else f"{type(cls).__name__} {getattr(cls, '__name__', '')}"


def _check_attributes(cls: type[Any], place: _Place) -> None:
    """A default without an annotation is no field, so that nobody could set it."""
    hinted = inspect.get_annotations(cls)
    for name, value in vars(cls).items():
        quiet = name.startswith("_") or name.isupper() or name in hinted or name in _READ
        if not quiet and isinstance(value, (bool, int, float, str, tuple, list, dict, set)):
            remedy = f"write {name}: {type(value).__name__} = {value!r}, or ClassVar[...] for what is no option"
            raise place.refusal(name, "an annotation for each field", f"{name} = {value!r}", remedy)
    norms = getattr(cls, "norms", NORMS)
    if isinstance(norms, str) or not all(norm in NORMS for norm in norms):
        remedy = "write norms: ClassVar[tuple[str, ...]] = (...)"
        raise place.refusal("norms", f"a tuple of norms ({', '.join(NORMS)})", f"norms={norms!r}", remedy)


def _check_fields(cls: type[Any], fields: list[dataclasses.Field[Any]], place: _Place) -> None:
    try:
        hints = get_type_hints(cls)
    except Exception as error:
        unknown = str(getattr(error, "name", ""))
        name = next((f.name for f in fields if unknown and unknown in re.findall(r"\w+", str(f.type))), "")
        remedy = "import what the annotation names, outside of TYPE_CHECKING"
        raise place.refusal(
            name, "an annotation that can be read", f"{type(error).__name__}: {error}", remedy
        ) from error
    for field in fields:
        if not _readable(hints[field.name]):
            kind, remedy = (
                _type_name(hints[field.name]),
                "use int, float, str, bool, None, tuple, list, dict or Literal",
            )
            raise place.refusal(field.name, "a field of a plain type", f"{field.name}: {kind}", remedy)
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        if made is not dataclasses.MISSING and not _plain(made):
            remedy = "use numbers, text, None or tuples, and make the rest in __call__"
            got = f"{field.name} = {getattr(made, '__name__', type(made).__name__)} of type {type(made).__name__}"
            raise place.refusal(field.name, "a plain default", got, remedy)


def _check_scenario(cls: type[Any], place: _Place) -> None:
    """A whole game, whose declarations agree with each other."""
    base = "derive it from robustsuite.scenarios.Scenario"
    if any(not hasattr(cls, name) for name in _GAME):
        raise place.refusal("", "a scenario", _named(cls), base)
    left = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
    if left:
        raise place.refusal("", f"a scenario with {left}", f"none in {cls.__name__}", "add it")
    if not cls.accesses or isinstance(cls.accesses, str):
        remedy = "write accesses: ClassVar[tuple[str, ...]] = (...)"
        raise place.refusal("accesses", "kinds of knowledge to hand out", f"accesses={cls.accesses!r}", remedy)
    for name, spec in cls.metrics.items():
        if not isinstance(spec, MetricSpec):
            remedy = "write a robustsuite.core.MetricSpec for each"
            raise place.refusal("metrics", "a MetricSpec", f"{name}={spec!r}", remedy)
    if cls.joined and cls.joined not in cls.metrics:
        raise place.refusal("joined", "one of its metrics", f"joined={cls.joined!r}", "declare it in metrics")
    rules = (*cls.options, *(("radius",) if cls.needs_threat else ()))
    for name in cls.sweeps:
        if name not in rules:
            remedy = "declare it in options"
            raise place.refusal("sweeps", f"rules to sweep ({', '.join(rules)})", f"sweeps={name!r}", remedy)


def _check_calls(cls: type[Any], kind: str, place: _Place) -> None:
    """`__call__`, and `check` where there is one, take what they are called with."""
    wanted = {"__call__": ("view", "streams"), "check": ("terms",)}
    if kind == "defense":
        wanted = {"__call__": ("recipe",), "check": ("recipe", "terms")}
    elif kind == "panel":
        wanted = {"__call__": ("exhibits",)}
    elif kind == "scenario":
        wanted = {"views": ("victim",), "score": ("victim", "moves"), "check": ("terms",)}
    for name, given in wanted.items():
        method = next((vars(base)[name] for base in cls.__mro__[:-1] if name in vars(base)), None)
        expected = f"def {name}(self, {', '.join(given)})"
        if method is None and name == "__call__":
            raise place.refusal("", expected, f"none in {cls.__name__}", "add it")
        if isinstance(method, types.FunctionType):
            signature = inspect.signature(method)
            try:
                signature.bind(None, *given)
            except TypeError:
                got = f"def {name}({', '.join(signature.parameters)})"
                raise place.refusal(name, expected, got, f"take {len(given)} beside self") from None


def _readable(hint: Any) -> bool:
    """Whether a suite file can give a value of this type."""
    origin = get_origin(hint)
    if origin in (Union, UnionType, tuple, list, dict):
        return all(_readable(part) for part in get_args(hint) if part is not ...)
    return origin is Literal or any(hint is kind for kind in _PLAIN)


def _plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_plain(item) for item in value.values())
    if isinstance(value, (tuple, list)):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)


class _Place:
    """Where a class and its members stand."""

    def __init__(self, cls: Any) -> None:
        module = sys.modules.get(getattr(cls, "__module__", ""))
        self.path = getattr(module, "__file__", None) or "<unknown>"
        self._name, self._cls = getattr(cls, "__name__", ""), cls
        self._node = self._find()

    def refusal(self, member: str, expected: str, got: str, remedy: str) -> PluginError:
        """The error about a member, or about the class."""
        return refusal(self.path, self._line(member), expected, got, remedy)

    def losses(self) -> Iterator[tuple[str, object, int]]:
        """Losses that the class asks the suite for by name: what it calls them, the name, and its line."""
        for node in ast.walk(self._node) if self._node is not None else ():
            asked: ast.expr | None = None
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "losses.resolve" and node.args:
                asked = node.args[0]
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("losses.NAMED", "losses.TOWARDS"):
                asked = node.slice
            if isinstance(asked, ast.Constant):
                yield "loss", asked.value, asked.lineno
            elif isinstance(asked, ast.Attribute) and ast.unparse(asked.value) == "self":
                default = getattr(self._cls, asked.attr, None)
                if isinstance(default, str):
                    yield asked.attr, default, self._line(asked.attr)

    def _find(self) -> ast.ClassDef | ast.FunctionDef | None:
        try:
            tree = ast.parse(Path(self.path).read_bytes())
        except (OSError, SyntaxError, ValueError):
            return None
        kinds = (ast.ClassDef, ast.FunctionDef)
        found = [n for n in ast.walk(tree) if isinstance(n, kinds) and n.name == self._name]
        return found[-1] if found else None

    def _line(self, member: str) -> int:
        if self._node is None:
            return 1
        for node in self._node.body:
            targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            names = [t.id for t in targets if isinstance(t, ast.Name)] + [getattr(node, "name", "")]
            if member and member in names:
                return node.lineno
        return self._node.lineno
