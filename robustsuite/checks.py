"""Validators: `expected <what>, got <name>=<value>; <remedy>`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

from robustsuite.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor


def fail(expected: str, name: str, value: object, remedy: str) -> RequestError:
    """Build the one form that all request errors have."""
    return RequestError(f"expected {expected}, got {name}={value!r}; {remedy}")


def integer(name: str, value: object, *, low: int, high: int | None = None) -> int:
    """Return `value` where it is an integer in [low, high]."""
    span = f"an integer of at least {low}" if high is None else f"an integer in [{low}, {high}]"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise fail(span, name, value, f"set {name} within that range")
    return value


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
        except (ValueError, ZeroDivisionError):
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
        raise RequestError(
            f"expected {name} within bounds=({low:g}, {high:g}), got min={least:g} and max={most:g}; if the inputs are "
            f"0-255 images, divide them by 255 or declare rs.wrap(model, bounds=(0, 255)); if they are normalised, "
            f"pass raw inputs and let rs.wrap(model, mean=..., std=...) normalise inside the model"
        )


def labels(name: str, y: Tensor, classes: int) -> None:
    """Refuse labels outside [0, classes), naming the first."""
    bad = (y < 0) | (y >= classes)
    if bad.any():
        index = int(bad.nonzero()[0])
        raise fail(f"labels in [0, {classes})", f"{name}[{index}]", int(y[index]), "number the classes from 0")
