"""What is wrong with a suite, where it stands, and one error that lists it all."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from robustsuite.core import checks
from robustsuite.core.errors import RequestError, RobustsuiteError
from robustsuite.suite.yaml_lines import Document, Path

T = TypeVar("T")
_LONGEST: Final = 120  # characters of an offending value that an error shows


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the path of the key, and a sentence that says what, and the way out."""

    path: Path
    message: str

    def below(self, *prefix: str | int) -> Problem:
        """The same problem seen from further up."""
        return Problem((*prefix, *self.path), self.message)


class ProblemsError(RequestError):
    """Several problems at once; `problems` holds them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{dotted(p.path)}: {p.message}" for p in self.problems))

    def carried(self) -> PydanticCustomError:
        """The same as an error that pydantic carries upwards with its place."""
        return PydanticCustomError("problems", "{text}", {"text": str(self), "problems": self.problems})


@dataclass(frozen=True)
class Origin:
    """Where the values of a suite come from; all are equal, since two suites that say the same are the same suite.

    Args:
        name: The file, as the user named it.
        document: The parsed file.
        typed: Paths that the command line set -> the option as it was typed.
    """

    name: str = field(compare=False)
    document: Document = field(default_factory=lambda: Document(None), compare=False)
    typed: Mapping[Path, str] = field(default_factory=dict, compare=False)

    def place(self, path: Path) -> str:
        """`file:line` of a path, or the option that set it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.typed:
                return self.typed[path[:end]]
        return f"{self.name}:{self.document.line(path)}"

    def refusal(self, problems: Iterable[Problem]) -> RequestError:
        """One error that lists every problem with its place, in the order of the file."""
        found = sorted(dict.fromkeys(problems), key=lambda p: self.document.line(p.path))
        lines = [f"{self.place(p.path)}: {dotted(p.path) or 'suite'}: {p.message}" for p in found]
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        return RequestError(
            f"{self.name} has {count}; nothing was started\n" + "\n".join(f"  {line}" for line in lines)
        )


def dotted(path: Path) -> str:
    """A key path as people write it: `defenses[1].dp-sgd.epsilon`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: object) -> str:
    """A value for an error, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def nearest(name: object, allowed: Iterable[str]) -> str:
    """`did you mean …?` where something is near, else what is allowed."""
    names = list(allowed)
    return _meant(name, names) or _allowed(names)


def _meant(name: object, names: list[str]) -> str:
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else ""


def _allowed(names: list[str]) -> str:
    return f"allowed: {', '.join(names) or 'nothing'}"


def unknown_key(key: object, value: object, allowed: Iterable[str], of: str) -> Problem:
    """A key that nobody reads."""
    names = list(allowed)
    hint = " ".join(part for part in (_meant(key, names), _allowed(names)) if part)
    return Problem((str(key),), f"expected a key of {of}, got {key}={shown(value)}; {hint}")


def named(error: BaseException) -> str | None:
    """The option or setting that an error is about, where it says so."""
    return error.name if isinstance(error, RobustsuiteError) else None


def locate(name: str | None, values: Any) -> Path:
    """The path of a name below `values`; empty where it is not there."""
    return () if name is None else _find(name, values) or ()


def _find(name: str, values: Any) -> Path | None:
    if isinstance(values, Mapping):
        if name in values:
            return (name,)
        children: Iterable[tuple[str | int, Any]] = ((str(key), item) for key, item in values.items())
    elif isinstance(values, Sequence) and not isinstance(values, str):
        children = enumerate(values)
    else:
        return None
    for key, item in children:
        below = _find(name, item)
        if below is not None:
            return (key, *below)
    return None


def tuples(value: Any) -> Any:
    """Lists as tuples, all the way down, as frozen dataclasses hold them."""
    return tuple(tuples(item) for item in value) if isinstance(value, list) else value


def read_dataclass(cls: type[T], values: Any, of: str) -> T:
    """Make a dataclass from a mapping of a suite.

    Args:
        cls: A dataclass whose `__post_init__` checks ranges.
        values: A mapping, or already an instance.
        of: What to call the block in errors.

    Raises:
        ProblemsError: Every unknown key, wrong type and impossible value.
    """
    if isinstance(values, cls):
        return values
    if not isinstance(values, Mapping):
        raise ProblemsError(
            [Problem((), f"expected a mapping of settings, got {of}={shown(values)}; write key: value")]
        )
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]  # T is a dataclass
    problems = [unknown_key(key, value, names, of) for key, value in values.items() if key not in names]
    given: dict[str, Any] = {}
    for key, value in checks.plain_numbers(dict(values)).items():
        if key in names:
            try:
                given[key] = coerce(hints[key], value)
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Input should be ")
                problems.append(Problem((key,), f"expected {reason}, got {key}={shown(value)}; change its type"))
    missing = [name for name in _required(cls) if name not in values]
    if missing:
        listed = ", ".join(f"{name}: …" for name in missing)
        problems.append(
            Problem((), f"expected {of} with {' and '.join(missing)}, got {shown(dict(values))}; add {listed}")
        )
    else:
        _construct(cls, given, problems)
    if problems:
        raise ProblemsError(problems)
    return cls(**given)


def _required(cls: type[Any]) -> list[str]:
    empty = dataclasses.MISSING
    fields = dataclasses.fields(cls)
    return [f.name for f in fields if f.init and f.default is empty and f.default_factory is empty]


def _construct(cls: Callable[..., Any], given: dict[str, Any], problems: list[Problem]) -> None:
    """Try to construct; each value that is refused is noted and left out, until nothing more is refused."""
    left = dict(given)
    while True:
        try:
            cls(**left)
        except TypeError:  # a required value was of a wrong type or is refused, which was said already
            return
        except ValueError as error:
            path = locate(named(error), left)
            if path or not problems:  # what is missing only because it was left out here is no news
                problems.append(Problem(path, str(error)))
            if not path:
                return
            del left[str(path[0])]
        else:
            return


def coerce(hint: Any, value: Any) -> Any:
    """`value` as the annotated type: no text for numbers, no numbers for text, lists for tuples.

    Raises:
        pydantic.ValidationError: It is of another type.
    """
    if get_origin(hint) in (Union, types.UnionType) and value is None and type(None) in get_args(hint):
        return None
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # `precision: 32` means the text
    return TypeAdapter(hint).validate_python(tuples(value), strict=True)


def from_pydantic(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Every problem inside a validation error, in the words that all request errors use."""
    found: list[Problem] = []
    for item in error.errors(include_url=False):
        path: Path = tuple(item["loc"])
        carried = item.get("ctx", {}).get("problems", ())
        if carried:
            found.extend(problem.below(*path) for problem in carried)
        elif item["type"] == "extra_forbidden" and len(path) == 1:
            found.append(unknown_key(path[0], item["input"], model.model_fields, "the suite"))
        elif item["type"] == "missing":
            found.append(Problem(path, f"expected {dotted(path)}, got nothing; add a line `{dotted(path)}: …`"))
        elif item["type"] == "value_error":  # raised by a check of ours, in whole sentences
            found.append(Problem(path, str(item["ctx"]["error"])))
        else:
            expected, name = item["msg"].removeprefix("Input should be "), dotted(path[-1:]) or "suite"
            expected = f"a value {expected}" if item["type"].startswith(("greater", "less")) else expected
            found.append(Problem(path, f"expected {expected}, got {name}={shown(item['input'])}; change that value"))
    return found
