"""Lists where a suite expects one value: each value makes a variant, with a label of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, Final, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from robustsuite.core import checks
from robustsuite.core.ball import NORMS, Ball
from robustsuite.core.errors import RequestError
from robustsuite.suite.problems import Problem, Problems, ProblemsError, problems_of, shown, unknown_key
from robustsuite.suite.yaml_lines import Path
from robustsuite.training.settings import Training

MOST: Final = 64
"""Variants that one entry of a suite may make."""
_BALL: Final = ("norm", "radius")


@dataclass(frozen=True)
class SweepOf:
    """Which sweep a variant belongs to.

    Args:
        of: The label without values, which all variants of the sweep share.
        over: What was swept: options, rules of the game, `training.epochs` and its like, `radius` of the ball.
    """

    of: str
    over: tuple[str, ...]

    def written(self) -> dict[str, Any]:
        """As a suite file writes it."""
        return {"of": self.of, "over": list(self.over)}

    @classmethod
    def read(cls, value: Any) -> SweepOf:
        """What a resolved suite says of a variant.

        Raises:
            RequestError: Anything else.
        """
        known = isinstance(value, Mapping) and set(value) == {"of", "over"} and isinstance(value["of"], str)
        over = value["over"] if known else None
        if not isinstance(over, list) or not all(isinstance(name, str) for name in over):
            remedy = "drop it, and write a list in place of the value that is swept"
            raise RequestError(f"expected {{of: label, over: [option]}}, got sweep={shown(value)}; {remedy}")
        return cls(value["of"], tuple(over))


class LabelledBall(NamedTuple):
    """One ball of several, and how labels tell it."""

    ball: Ball
    text: str


@dataclass(frozen=True)
class Variant:
    """One of the plug-ins that an entry with lists stands for.

    Args:
        options: Its options, one value each.
        chosen: Where each swept value stands, below the options of the entry.
    """

    options: dict[str, Any]
    chosen: Mapping[Path, int] = field(default_factory=dict)

    def below(self, *prefix: str | int) -> Variant:
        """The same, seen from further up."""
        return replace(self, chosen={(*prefix, *path): at for path, at in self.chosen.items()})

    def placed(self, problems: Sequence[Problem]) -> Iterator[Problem]:
        """Problems of this variant, at the item of the list that made it."""
        for problem in problems:
            path = problem.path
            yield replace(problem, path=(*path, self.chosen[path])) if path in self.chosen else problem


def is_swept(hint: Any, value: Any) -> bool:
    """Whether a value is a list where the declared type has single values.

    Example:
        >>> is_swept(float, [0.1, 0.2]), is_swept(tuple[int, ...], [1, 2]), is_swept(float, 0.1)
        (True, False, False)
    """
    return isinstance(value, list) and _is_single(hint)


def _is_single(hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return all(map(_is_single, get_args(hint)))
    return hint in (int, float, str, bool, type(None)) or get_origin(hint) is Literal


def hints_of(cls: type[Any]) -> dict[str, Any]:
    """Declared types of a plug-in's parameters or a game's rules; nothing where they cannot be read."""
    try:
        return get_type_hints(cls)
    except (NameError, TypeError):
        return {}


def swept_training(options: Mapping[str, Any]) -> dict[Path, list[Any]]:
    """Settings in a defence's own `training` that are lists where single values are expected."""
    hints, given = hints_of(Training), options.get("training")
    given = given if isinstance(given, Mapping) else {}
    return {("training", str(k)): v for k, v in given.items() if k in hints and is_swept(hints[k], v)}


def text_of(value: Any) -> str:
    """A value as labels tell it: quotients as they were written.

    Example:
        >>> text_of(0.001), text_of(3.0), text_of("8/255"), text_of(True)
        ('0.001', '3', '8/255', 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}".replace("+", "") if isinstance(value, (int, float)) else str(value).strip()


def variants(
    name: str, options: Mapping[str, Any], lists: Mapping[Path, Sequence[Any]], balls: Sequence[LabelledBall] = ()
) -> list[Variant]:
    """One for each combination of the values, in the order of the lists, the balls innermost.

    Args:
        name: The plug-in's name, which is its label where it has none.
        options: As the suite writes them.
        lists: What is swept, by its path below the options.
        balls: The balls that an attack is played in; empty for the suite's own.

    Raises:
        ProblemsError: An empty list, a value that is there twice, or more variants than one entry may make.
    """
    if not lists and not balls:
        return [Variant(dict(options))]
    problems = Problems(problem for path, values in lists.items() for problem in _mistakes(path, values))
    problems.refuse()
    sizes = [len(values) for values in lists.values()] + [len(balls)] * bool(balls)
    count = math.prod(sizes)
    if count > MOST:
        wish = f"at most {MOST} variants of one entry"
        raise RequestError(f"expected {wish}, got {' x '.join(map(str, sizes))} = {count} of {name}; shorten a list")
    over = [*(".".join(map(str, path)) for path in lists), *(["radius"] if balls else [])]
    positions = itertools.product(*(range(len(values)) for values in lists.values()))
    return [
        _variant(name, options, lists, at, ball, over) for at in positions for ball in (balls if balls else (None,))
    ]


def _mistakes(path: Path, values: Sequence[Any]) -> Iterator[Problem]:
    name = str(path[-1])
    if not values:
        yield Problem(path, f"expected at least one value, got {name}=[]; write one, or a list of several")
    texts = [text_of(value) for value in values]
    for index, text in enumerate(texts):
        if text in texts[:index]:
            yield Problem((*path, index), f"expected each value once, got {name}={text} again; remove one of them")


def _variant(
    name: str,
    options: Mapping[str, Any],
    lists: Mapping[Path, Sequence[Any]],
    at: Sequence[int],
    point: LabelledBall | None,
    over: Sequence[str],
) -> Variant:
    made = {key: dict(value) if isinstance(value, Mapping) else value for key, value in options.items()}
    told = []
    for (path, values), index in zip(lists.items(), at, strict=True):
        holder = made[str(path[0])] if len(path) > 1 else made
        holder[str(path[-1])] = values[index]
        told.append(f"{'.'.join(map(str, path))}={text_of(values[index])}")
    if point is not None:
        made["threat"] = {"norm": point.ball.norm, "radius": point.ball.radius}
        told.append(point.text)
    base = made.get("label", name)
    made |= {"label": f"{base}({','.join(told)})", "sweep": SweepOf(str(base), tuple(over)).written()}
    return Variant(made, dict(zip(lists, at, strict=True)))


def read_balls(values: Any, norm: str | None = None) -> tuple[list[LabelledBall], bool]:
    """Every ball of a threat, or of a list of threats, in which a radius may be a list.

    Args:
        values: A mapping with `norm` and `radius`, or a list of such.
        norm: The norm where a threat names none.

    Returns:
        The balls, and whether any list was given.

    Raises:
        ProblemsError: All that is wrong with any of them.
    """
    listed = isinstance(values, (list, tuple))
    blocks = list(values) if listed else [values]
    problems, read = Problems(), list[tuple[Ball, str]]()
    for index, block in enumerate(blocks):
        with problems.below(*((index,) if listed else ())):
            read += _balls(block, norm)
    if not blocks:
        problems.append(Problem((), "expected at least one threat, got threat=[]; write {norm: linf, radius: 8/255}"))
    problems.refuse()
    several = listed or isinstance(blocks[0].get("radius"), list)
    first = norm or read[0][0].norm
    points = [
        LabelledBall(b, f"radius={text}" if b.norm == first else f"norm={b.norm},radius={text}") for b, text in read
    ]
    for index, point in enumerate(points):
        if point.ball in [other.ball for other in points[:index]]:
            raise ProblemsError([Problem((), f"expected each ball once, got {point.text} again; remove one of them")])
    if len(points) > MOST:
        raise RequestError(f"expected at most {MOST} balls, got {len(points)}; shorten a list")
    return points, several


def _balls(block: Any, norm: str | None) -> list[tuple[Ball, str]]:
    if not isinstance(block, Mapping):
        raise RequestError(f"expected a threat, got {shown(block)}; write {{norm: linf, radius: 8/255}}")
    problems = Problems(unknown_key(key, value, _BALL, "a threat") for key, value in block.items() if key not in _BALL)
    problems.refuse()
    named = block.get("norm", norm)
    missing = [key for key, value in (("norm", named), ("radius", block.get("radius"))) if value is None]
    if missing:
        raise checks.fail("norm and radius together", missing[0], None, f"add {missing[0]}: to this threat")
    if isinstance(named, list):
        remedy = "write a list of threats, each norm with its radius: [{norm: linf, radius: 8/255}, {norm: l2, …}]"
        raise ProblemsError([Problem(("norm",), f"expected one norm a threat, got norm={shown(named)}; {remedy}")])
    radii = block["radius"]
    found = []
    try:
        checks.one_of("norm", named, NORMS)
        for problem in _mistakes(("radius",), radii) if isinstance(radii, list) else ():
            problems.append(problem)
    except RequestError as error:
        problems.extend(problems_of(error, block))
    problems.refuse()
    for index, radius in enumerate(radii if isinstance(radii, list) else [radii]):
        path: Path = ("radius", index) if isinstance(radii, list) else ("radius",)
        try:
            size = checks.real("radius", checks.fraction("radius", radius), low=0.0)
            found.append((Ball(named, size), text_of(radius)))
        except RequestError as error:
            problems.append(Problem(path, str(error)))
    problems.refuse()
    return found
