"""Which entry of a row or a batch is the input, and which one the label."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from robustsuite.core import checks
from robustsuite.core.errors import RequestError

INPUTS: Final = ("x", "image", "images", "img", "pixel_values", "input", "inputs", "data", "features")
LABELS: Final = ("y", "label", "labels", "target", "targets")


def pair(held: Any) -> tuple[Any, Any]:
    """Input and label out of a row or a batch, or of whole arrays.

    A pair is read in its order. Entries with names (a mapping, a dataclass, a named tuple) are read by them, where just
    one name is among `INPUTS` and just one among `LABELS`; other entries are left out. Everything else is refused,
    because a wrong guess would judge the model against something that is no label.

    Args:
        held: What a `Dataset` or `DataLoader` yields, or what was passed as data.

    Raises:
        RequestError: No pair, or names that leave it open; the message shows the entries and the line that mends it.

    Example:
        >>> pair({"label": 3, "image": [0.5]}), pair(([0.5], 3))
        (([0.5], 3), ([0.5], 3))
    """
    named = _named(held)
    if named is not None:
        inputs, labels = (_one(named, known) for known in (INPUTS, LABELS))
        if inputs is not None and labels is not None:
            return named[inputs], named[labels]
    if isinstance(held, (tuple, list)) and len(held) == 2:
        return held[0], held[1]
    raise _refused(held, named)


def _named(held: Any) -> dict[str, Any] | None:
    """Entries by name, in their order; None where they have none."""
    if isinstance(held, Mapping):
        return {str(key): value for key, value in held.items()}
    if dataclasses.is_dataclass(held) and not isinstance(held, type):
        return {field.name: getattr(held, field.name) for field in dataclasses.fields(held)}
    names = getattr(held, "_fields", None)
    return dict(zip(names, held, strict=True)) if isinstance(held, tuple) and names is not None else None


def _one(named: Mapping[str, Any], known: tuple[str, ...]) -> str | None:
    found = [name for name in named if name.lower() in known]
    return found[0] if len(found) == 1 else None


def _refused(held: Any, named: Mapping[str, Any] | None) -> RequestError:
    remedy = "pass inputs and labels as a pair"
    if named is not None:
        got, first, second = f"{type(held).__name__} of {_shown(named)}", 'row["INPUT"]', 'row["LABEL"]'
        if not isinstance(held, Mapping):
            first, second = "row.INPUT", "row.LABEL"
    elif isinstance(held, (tuple, list)):
        got = f"{type(held).__name__} of {len(held)}"
        got += f" ({', '.join(_kind(part) for part in held[:5])})" if len(held) <= 5 else ""
        first, second = "row[0]", "row[1]"
    else:
        return checks.fail(
            "(x, y), a Dataset, a DataLoader or Samples", "data", type(held).__name__, f"{remedy} (x, y)"
        )
    line = f"DataLoader(dataset, 256, collate_fn=lambda rows: default_collate([({first}, {second}) for row in rows]))"
    return RequestError(
        f"expected (x, y), or entries of which one is named as an input ({', '.join(INPUTS)}) and one as a label "
        f"({', '.join(LABELS)}), got data={got}; {remedy}, or name the entries: {line}"
    )


def _shown(named: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {_kind(value)}" for name, value in named.items()) + "}"


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {tuple(shape)}"
