"""Validators: `expected <what>, got <name>=<value>; <remedy>`."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

from robustsuite.core.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def fail(expected: str, name: str, value: object, remedy: str) -> RequestError:
    """Build the one form that all request errors have."""
    return RequestError(f"expected {expected}, got {name}={value!r}; {remedy}", name=name)


def integer(name: str, value: object, *, low: int, high: int | None = None) -> int:
    """Return `value` as an int where it is an integer in [low, high], a scalar of NumPy or torch among them."""
    span = f"an integer of at least {low}" if high is None else f"an integer in [{low}, {high}]"
    held = plain_number(value)
    if isinstance(held, bool) or not isinstance(held, int) or held < low or (high is not None and held > high):
        raise fail(span, name, value, f"set {name} within that range")
    return held


def real(
    name: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return `value` as a float where it is finite and in the stated interval."""
    span = f"a number in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    value = plain_number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise fail(span, name, value, f"set {name} within that range")
    outside = value < low or value > high or (open_low and value == low) or (open_high and value == high)
    if outside:
        raise fail(span, name, value, f"set {name} within that range")
    return float(value)


def plain_number(value: object) -> object:
    """A NumPy or torch scalar as the Python number that it holds; anything else as it is.

    Example:
        >>> import numpy as np
        >>> plain_number(np.float32(0.5)), plain_number("8/255")
        (0.5, '8/255')
    """
    if getattr(value, "shape", None) == () and callable(item := getattr(value, "item", None)):
        held: object = item()
        return held
    return value


def plain_numbers(value: Any) -> Any:
    """The same dicts, lists and tuples with plain numbers in place of scalars of NumPy and torch, all the way down.

    Example:
        >>> import numpy as np
        >>> plain_numbers({"steps": np.int64(5), "curve": [np.float32(0.5), "8/255"]})
        {'steps': 5, 'curve': [0.5, '8/255']}
    """
    if type(value) is dict:
        return {plain_number(key): plain_numbers(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain_numbers(item) for item in value)
    return plain_number(value)


def settle(made: Any) -> None:
    """Plain numbers in the fields of a dataclass, frozen or not, for its `__post_init__`."""
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if _has_scalars(value):
            object.__setattr__(made, field.name, plain_numbers(value))


def settled(made: T) -> T:
    """A plug-in with plain numbers in its fields: the same one where they are plain already."""
    if not dataclasses.is_dataclass(made) or not any(
        _has_scalars(getattr(made, field.name)) for field in dataclasses.fields(made)
    ):
        return made
    twin = copy.copy(made)
    settle(twin)
    return twin


def _has_scalars(value: Any) -> bool:
    if type(value) is dict:
        return any(_has_scalars(item) for pair in value.items() for item in pair)
    if type(value) in (list, tuple):
        return any(map(_has_scalars, value))
    return plain_number(value) is not value


def recordable(value: object) -> str | int | float | bool | None:
    """A value as other tools can carry it: plain text, number, truth value or None, and no class derived from these.

    Example:
        >>> import numpy as np
        >>> recordable(np.float64(0.5)), recordable(np.bool_(True)), recordable((1, 2))
        (0.5, True, '(1, 2)')
    """
    value = plain_number(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return "".join(value) if isinstance(value, str) else str(value)


def fraction(name: str, value: object) -> float:
    """Read a number or text such as '8/255'.

    Example:
        >>> fraction("radius", "8/255") == 8 / 255
        True
    """
    if isinstance(value, str):
        try:
            top, _, bottom = value.partition("/")
            return float(Fraction(top.strip()) / Fraction(bottom.strip())) if bottom else float(Fraction(value.strip()))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise fail("a number or a quotient of two", name, value, "write it like 0.3 or 8/255") from None
    return real(name, value)


def one_of(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return `value` where it is one of `allowed`; the error names the nearest."""
    names = list(allowed)
    if value in names:
        return str(value)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]!r}?" if near else f"write {name} as one of them"
    raise fail(f"one of {', '.join(names)}", name, value, remedy)


def targets(name: str, count: int, classes: int, *, usual: int = 0) -> int:
    """Return `count` where there are so many wrong classes; a default of `usual` means at most so many, and passes."""
    if count < classes or count <= usual:
        return count
    raise fail(f"at most {classes - 1} targets for {classes} classes", name, count, "lower it, or leave it out")


def finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinities, naming the first index."""
    import torch

    if not tensor.is_floating_point():
        return
    bad = ~torch.isfinite(tensor)
    if bad.any():
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise fail(
            "finite numbers", f"{name}{list(index)}", float(tensor[index]), f"remove or mend that entry of {name}"
        )


def within(name: str, tensor: Tensor, bounds: tuple[float, float]) -> None:
    """Refuse inputs outside their declared bounds; nothing is clipped silently."""
    low, high = bounds
    least, most = float(tensor.min()), float(tensor.max())
    slack = 1e-6 * max(1.0, high - low)
    if least < low - slack or most > high + slack:
        remedy = (
            "if the inputs are 0-255 images, divide them by 255 or declare rs.wrap(model, bounds=(0, 255)); if they "
            "are normalised, pass raw inputs and let rs.wrap(model, mean=..., std=...) normalise inside the model"
        )
        if tensor.dim() == 2:  # feature vectors
            remedy = "declare what features may be, rs.wrap(model, bounds=(least, most)), or scale them to [0, 1]"
        raise RequestError(
            f"expected {name} within bounds=({low:g}, {high:g}), got min={least:g} and max={most:g}; {remedy}"
        )


def labels(name: str, y: Tensor, classes: int) -> None:
    """Refuse labels outside [0, classes), naming the first."""
    bad = (y < 0) | (y >= classes)
    if bad.any():
        index = int(bad.nonzero()[0])
        raise fail(f"labels in [0, {classes})", f"{name}[{index}]", int(y[index]), "number the classes from 0")
