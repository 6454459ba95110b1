"""What is wrong with a suite, where it stands, and one error that lists it all."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from robustsuite.core import checks
from robustsuite.core.errors import RequestError, RobustsuiteError, UntrustedCodeError
from robustsuite.plugins.trust import Trust
from robustsuite.suite.yaml_lines import Document, Path

T = TypeVar("T")
_LONGEST: Final = 120  # characters of an offending value that an error shows


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the path of the key, what is wrong with the way out, and the kind of error."""

    path: Path
    message: str
    kind: type[Exception] = RequestError

    def below(self, *prefix: str | int) -> Problem:
        """The same problem seen from further up."""
        return replace(self, path=(*prefix, *self.path))


class ProblemsError(RequestError):
    """Several problems at once; `problems` holds them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{dotted(p.path)}: {p.message}" for p in self.problems))


def problems_of(error: Exception, values: Any = None) -> tuple[Problem, ...]:
    """What an error lists; where it lists nothing, itself, at the place in `values` of the option that it names."""
    if isinstance(error, ProblemsError):
        return error.problems
    name = error.name if isinstance(error, RobustsuiteError) else None
    return (Problem(locate(name, values), str(error), type(error)),)


class Problems(list[Problem]):
    """Problems as they are found, so that one error can list them all."""

    @contextmanager
    def below(self, *path: str | int) -> Iterator[None]:
        """Note what is refused in this block, which is about the values at this path, and go on behind it."""
        try:
            yield
        except RequestError as error:
            self.extend(problem.below(*path) for problem in problems_of(error))

    def make(self, make: Callable[[dict[str, Any]], T], options: Mapping[str, Any]) -> T | None:
        """What these options make; each that is refused is noted and left out, until nothing more is refused."""
        left = dict(options)
        while True:
            try:
                return make(left)
            except (ValueError, TypeError) as error:
                problem = problems_of(error, left)[0]
                if problem.path or not self:  # what is missing only because it was left out here is no news
                    self.append(problem)
                if not problem.path:
                    return None
                del left[str(problem.path[0])]

    def refuse(self) -> None:
        """Raise one error that lists them, where there are any.

        Raises:
            ProblemsError: All of them.
        """
        if self:
            raise ProblemsError(self)


@dataclass(frozen=True)
class Origin:
    """Where the values of a suite come from; all are equal, since two suites that say the same are the same suite.

    Args:
        name: The file, as the user named it.
        document: The parsed file.
        typed: Paths that the command line set -> the option as it was typed.
        trust: Which code the values may name; None where they were written in Python.
        unchecked: What a dry run could not check, since it runs no code that is not trusted.
        gone: Where items stood in a list that a dry run left out.
    """

    name: str = field(compare=False)
    document: Document = field(default_factory=lambda: Document(None), compare=False)
    typed: Mapping[Path, str] = field(default_factory=dict, compare=False)
    trust: Trust | None = field(default=None, compare=False)
    unchecked: Problems = field(default_factory=Problems, compare=False)
    gone: dict[str, list[int]] = field(default_factory=dict, compare=False)

    @property
    def defers(self) -> bool:
        """Whether code that is not trusted is left out, as by a dry run."""
        return self.trust is not None and self.trust.defers

    def as_written(self, problems: Iterable[Problem]) -> Problems:
        """The same problems, with indices as the file counts, where items of a list were left out."""
        found = Problems()
        for problem in problems:
            path = problem.path
            for index in sorted(self.gone.get(str(path[0]), ()) if len(path) > 1 else ()):
                path = (path[0], int(path[1]) + (int(path[1]) >= index), *path[2:])
            found.append(replace(problem, path=path))
        return found

    def sift(self, problems: Iterable[Problem]) -> Problems:
        """Those that count; what hangs on code that a dry run leaves out is noted instead."""
        found = Problems(problems)
        if self.defers:
            self.unchecked.extend(p for p in found if p.kind is UntrustedCodeError and p not in self.unchecked)
            found[:] = [problem for problem in found if problem.kind is not UntrustedCodeError]
        return found

    def place(self, path: Path) -> str:
        """`file:line` of a path, or the option that set it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.typed:
                return self.typed[path[:end]]
        return f"{self.name}:{self.document.line(path)}"

    def refusal(self, problems: Iterable[Problem]) -> RequestError:
        """One error that lists every problem with its place, in the order of the file."""
        lines = self.lines(problems)
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        return RequestError(
            f"{self.name} has {count}; nothing was started\n" + "\n".join(f"  {line}" for line in lines)
        )

    def lines(self, problems: Iterable[Problem]) -> list[str]:
        """Each problem with its place, in the order of the file."""
        found = sorted(dict.fromkeys(problems), key=lambda p: self.document.line(p.path))
        return [f"{self.place(p.path)}: {dotted(p.path) or 'suite'}: {p.message}" for p in found]


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
    return _hints(name, allowed)[0]


def unknown_key(key: object, value: object, allowed: Iterable[str], of: str) -> Problem:
    """A key that nobody reads."""
    hint = " ".join(_hints(key, allowed))
    return Problem((str(key),), f"expected a key of {of}, got {key}={shown(value)}; {hint}")


def _hints(name: object, allowed: Iterable[str]) -> list[str]:
    names = list(allowed)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    meant = [f"did you mean {' or '.join(map(repr, near))}?"] if near else []
    return [*meant, f"allowed: {', '.join(names) or 'nothing'}"]


def locate(name: str | None, values: Any) -> Path:
    """The path of a name below `values`; empty where it is not there."""
    if isinstance(values, Mapping) and name is not None:
        if name in values:
            return (name,)
        children: Iterable[tuple[str | int, Any]] = ((str(key), item) for key, item in values.items())
    elif isinstance(values, (list, tuple)):
        children = enumerate(values)
    else:
        return ()
    return next(((key, *below) for key, item in children if (below := locate(name, item))), ())


def quotients(values: Any, *keys: str) -> Any:
    """The same settings, where these may be written as `8/255` or as a list of such.

    Raises:
        ProblemsError: The first that is no quotient.
    """
    if not isinstance(values, Mapping):
        return values
    read = dict(values)
    try:
        for key in keys:
            value = read.get(key)
            if isinstance(value, str):
                read[key] = checks.fraction(key, value)
            elif isinstance(value, list):
                read[key] = [checks.fraction(key, item) if isinstance(item, str) else item for item in value]
    except RequestError as error:
        raise ProblemsError(problems_of(error, values)) from error
    return read


def read_dataclass(cls: type[T], values: Any, of: str) -> T:
    """Make a dataclass from a mapping of a suite.

    Args:
        cls: A dataclass whose `__post_init__` checks ranges.
        values: A mapping, or already an instance.
        of: What to call the block in errors.

    Raises:
        RequestError: No mapping.
        ProblemsError: Every unknown key, wrong type and impossible value.
    """
    if isinstance(values, cls):
        return values
    if not isinstance(values, Mapping):
        raise RequestError(f"expected a mapping of settings, got {of}={shown(values)}; write key: value")
    fields = [f for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]  # T is a dataclass
    names, hints = [f.name for f in fields], get_type_hints(cls)
    problems = Problems(unknown_key(key, value, names, of) for key, value in values.items() if key not in names)
    given: dict[str, Any] = {}
    for key, value in checks.plain_numbers(dict(values)).items():
        try:
            if key in names:
                given[key] = _coerce(hints[key], value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Input should be ")
            problems.append(Problem((key,), f"expected {reason}, got {key}={shown(value)}; change its type"))
    missing = [f.name for f in fields if f.name not in values and dataclasses.MISSING is f.default is f.default_factory]
    if missing:
        listed = ", ".join(f"{name}: …" for name in missing)
        message = f"expected {of} with {' and '.join(missing)}, got {shown(dict(values))}; add {listed}"
        problems.append(Problem((), message))
    made = problems.make(lambda left: cls(**left), given)
    if made is None or problems:
        raise ProblemsError(problems)
    return made


def _coerce(hint: Any, value: Any) -> Any:
    """`value` as the annotated type: no text for numbers, no numbers for text, lists for tuples."""
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # `precision: 32` means the text
    return TypeAdapter(hint).validate_python(_tuples(value), strict=True)


def _tuples(value: Any) -> Any:
    """Lists as tuples, all the way down, as frozen dataclasses hold them."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def from_pydantic(error: ValidationError, model: type[BaseModel]) -> Problems:
    """Every problem inside a validation error, in the words that all request errors use."""
    found = Problems()
    for item in error.errors(include_url=False):
        path: Path = tuple(item["loc"])
        if item["type"] == "value_error":  # raised by a reader or a check of ours, in whole sentences
            found.extend(problem.below(*path) for problem in problems_of(item["ctx"]["error"]))
        elif item["type"] == "extra_forbidden":
            found.append(unknown_key(path[0], item["input"], model.model_fields, "the suite"))
        elif item["type"] == "missing":
            found.append(Problem(path, f"expected {dotted(path)}, got nothing; add a line `{dotted(path)}: …`"))
        else:
            expected, name = item["msg"].removeprefix("Input should be "), dotted(path[-1:]) or "suite"
            expected = f"a value {expected}" if item["type"].startswith(("greater", "less")) else expected
            found.append(Problem(path, f"expected {expected}, got {name}={shown(item['input'])}; change that value"))
    return found
