"""What the fields of a record must be: a line that holds something else is as good as torn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from robustsuite.core.metric import Metric

STATUSES: Final = ("ok", "inconclusive", "error", "not_applicable", "not_run")
_BETTER: Final = ("higher", "lower", "")
_NOT_FINITE: Final = ("inf", "-inf", "nan")  # as `canonical.plain` writes them


def checked(fields: Mapping[str, Any]) -> None:
    """Look at every field of a record that is known here.

    Args:
        fields: As JSON gave them; those that are absent have defaults.

    Raises:
        ValueError: One is of another type, or a value that it cannot have.
    """
    for name, (what, fits) in _FIELDS.items():
        if name in fields and not fits(fields[name]):
            raise ValueError(f"expected {name} to be {what}, got {fields[name]!r}")


def metric_of(name: str, figures: Any) -> Metric:
    """A figure with its interval.

    Raises:
        ValueError: It is no figure: a text for a number, a negative count, an interval whose ends are exchanged.
    """
    from robustsuite.core.metric import Metric

    if not isinstance(figures, Mapping):
        raise ValueError(f"expected metrics.{name} to be a mapping, got {figures!r}")
    told = {part: value for part, value in numbers(figures).items() if part in _PARTS and value is not None}
    for part, value in told.items():
        what, fits = _PARTS[part]
        if not fits(value):
            raise ValueError(f"expected metrics.{name}.{part} to be {what}, got {value!r}")
    if told.get("low", -math.inf) > told.get("high", math.inf):
        raise ValueError(f"expected metrics.{name} with low <= high, got {told['low']!r} and {told['high']!r}")
    return Metric(**{"value": math.nan, **told})


def numbers(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The same mapping, in which numbers that JSON has no word for are numbers again."""
    return {
        name: float(value) if isinstance(value, str) and value in _NOT_FINITE else value
        for name, value in figures.items()
    }


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return _whole(value) and value >= 0


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _variants(value: Any) -> bool:
    """Sweeps by `defense` and `attack`: a shared label, and options with their values."""
    return _mapping(value) and all(
        _mapping(sweep) and _text(sweep.get("of")) and _mapping(sweep.get("at")) for sweep in value.values()
    )


def _counts(value: Any) -> bool:
    return _mapping(value) and all(map(_count, value.values()))


def _epochs(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        _mapping(epoch) and all(_number(figure) or figure is None for figure in numbers(epoch).values())
        for epoch in value
    )


_Rule = tuple[str, Callable[[Any], bool]]
_TEXTS: Final = (
    *("key", "suite", "dataset", "model", "defense", "attack", "scenario", "knowledge", "norm", "sweep", "message"),
    *("headline", "samples", "samples_digest"),
)
_MAPPINGS: Final = (
    *("metrics", "attack_parameters", "rules", "review", "recipe", "training", "environment", "data", "budget"),
)
_FIELDS: Final[dict[str, _Rule]] = {
    **dict.fromkeys(_TEXTS, ("a text", _text)),
    **dict.fromkeys(_MAPPINGS, ("a mapping", _mapping)),
    **dict.fromkeys(("order", "repeat", "version"), ("a whole number of at least 0", _count)),
    "seed": ("a whole number", _whole),
    "variant": ("a mapping to sweeps, each with of and at", _variants),
    "radius": ("a number of at least 0, or nothing", lambda v: v is None or (_number(v) and v >= 0)),
    "seconds": ("a number", _number),
    "minimum_norm": ("true or false", lambda v: isinstance(v, bool)),
    "status": (f"one of {', '.join(STATUSES)}", lambda v: v in STATUSES),
    "flags": ("a list of texts", lambda v: isinstance(v, (list, tuple)) and all(map(_text, v))),
    "cost": ("a mapping to counts", _counts),
    "history": ("a list of mappings to numbers", _epochs),
}
_PARTS: Final[dict[str, _Rule]] = {
    **dict.fromkeys(("value", "low", "high"), ("a number", _number)),
    "n": ("a whole number of at least 0", _count),
    "unit": ("a text", _text),
    "better": (f"one of {_BETTER}", lambda v: v in _BETTER),
}
