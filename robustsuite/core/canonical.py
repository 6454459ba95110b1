"""One way from parameters to JSON and from JSON to a key."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from robustsuite.core import checks

_AS_THEY_ARE: Final = (str, int, bool)


def plain(value: Any) -> Any:
    """Turn dataclasses, tuples, enums and paths into JSON values; a dataclass carries the name of its class as `is`.

    Scalars of NumPy and torch are the numbers that they hold. JSON has no infinity: numbers that are not finite become
    the text `inf`, `-inf` or `nan`, which `float` reads back.
    """
    kind = type(value)
    if kind.__module__ == "numpy":  # before all else, for some of its numbers are Python's too
        value = checks.plain_number(value)
    if value is None or kind in _AS_THEY_ARE:  # first, for nearly all values are such
        return value
    if kind is dict:
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
        return {"is": getattr(type(value), "plugin_name", type(value).__name__), **fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (int, float, str)):
        return value
    if (held := checks.plain_number(value)) is not value:
        return plain(held)
    raise TypeError(f"expected plain parameters, got {type(value).__name__}={value!r}; keep tensors out of parameters")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare white space."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """The first 24 hexadecimal digits of SHA-256 over the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:24]
