"""Arrays that a user made: `.npz` files and factories."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from robustsuite.core import checks
from robustsuite.core.errors import RequestError, UntrustedFileError
from robustsuite.core.splits import Splits
from robustsuite.data.coerce import arrays_of, as_inputs, as_labels
from robustsuite.data.sources import Part, Source
from robustsuite.plugins.loading import call_factory, load_factory
from robustsuite.storage.files import absent

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def npz(path: Path, bounds: tuple[float, float] | None, classes: int | None) -> Source:
    """A data set from an `.npz` that holds `x` and `y`, or `x_train`, `y_train`, `x_test` and `y_test`.

    Floating inputs are raw values within `bounds`; uint8 inputs v stand for `low + (high - low) v / 255`.

    Args:
        path: The file; nothing pickled in it is ever read.
        bounds: Least and greatest input value; None for (0, 1).
        classes: How many classes there are; None for one more than the greatest label.

    Raises:
        UntrustedFileError: A file that is no npz, or one that holds Python objects.
        RequestError: Missing arrays, inputs out of bounds, labels that are no integers.
    """
    held = _read(path)
    if {"x", "y"} <= held.keys():
        pairs: list[tuple[Any, Any]] = [(held["x"], held["y"])]
    elif set(_KEYS) <= held.keys():
        pairs = [(held["x_train"], held["y_train"]), (held["x_test"], held["y_test"])]
    else:
        wanted = f"arrays x and y, or {', '.join(_KEYS)}"
        raise checks.fail(wanted, "path", str(path), f"it holds {', '.join(held) or 'nothing'}: rename them")
    return _source(path.stem, pairs, bounds, classes)


def from_factory(
    name: str,
    target: str,
    options: Mapping[str, Any],
    seed: int,
    bounds: tuple[float, float] | None,
    classes: int | None,
) -> Source | Splits:
    """A data set from a user's function, which may ask for `seed` by name.

    Args:
        name: Name for records and tables, unless the function returns `Splits`, which have their own.
        target: `package.module:function` or `path/to/file.py:function`.
        options: Passed to it.
        seed: Offered to it.
        bounds: Least and greatest input value; None for (0, 1).
        classes: How many classes there are; None for one more than the greatest label.

    Raises:
        RequestError: It cannot be called, or returns neither `Splits`, `(x, y)` nor `((x, y), (x, y))`.
    """
    made = call_factory(target, load_factory(target), {"seed": seed}, options)
    if isinstance(made, Splits):
        return made
    try:
        nested = isinstance(made, (tuple, list)) and len(made) == 2 and all(_is_set(part) for part in made)
        pairs = [arrays_of(part) for part in (made if nested else [made])]
    except RequestError as error:
        wanted = "a factory of Splits, (x, y) or ((x, y), (x, y)), each pair also as a Dataset or with names"
        raise checks.fail(wanted, "factory", target, f"it returned {type(made).__name__}: {error}") from error
    return _source(name, pairs, bounds, classes)


def _is_set(part: Any) -> bool:
    """Whether this is a pair of inputs and labels by itself, or gives one."""
    paired = isinstance(part, (tuple, list)) and len(part) == 2
    return paired or isinstance(part, (Mapping, Dataset, DataLoader)) or is_dataclass(part)


def _read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    name = ""
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise checks.fail("an .npz file", "path", str(path), "save it by numpy.savez(path, x=x, y=y)")
            held = {}
            for name in file.files:
                held[name] = file[name]
            return held
    except FileNotFoundError as error:
        raise checks.fail("an existing .npz file", "path", str(path), absent(path)) from error
    except RequestError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, KeyError) as error:
        where = f"{path}:{name}" if name else str(path)
        page = path.read_bytes()[:512].lstrip()[:1] == b"<"
        reason = "it is an HTML page" if page else str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UntrustedFileError(
            f"expected an .npz of plain arrays, got {where}; {reason}: save numbers only, by numpy.savez"
        ) from error


def _source(name: str, pairs: list[tuple[Any, Any]], bounds: tuple[float, float] | None, classes: int | None) -> Source:
    parts = [_part(x, y) for x, y in pairs]
    count = max(2, *(int(p.y.max()) + 1 for p in parts)) if classes is None else classes
    train, test = parts[0], parts[1] if len(parts) > 1 else None
    return Source(name, train, test, count, bounds=bounds or (0.0, 1.0))


def _part(x: Any, y: Any) -> Part:
    inputs, labels = as_inputs(x, keep_bytes=True), as_labels(y)
    if len(inputs) == 0 or len(inputs) != len(labels):
        raise checks.fail("as many labels as inputs, and at least one", "len(y)", len(labels), f"x has {len(inputs)}")
    _channels_first(inputs)
    return Part.of(inputs if inputs.dtype == torch.uint8 else inputs.to(torch.float32), labels)


def _channels_first(x: Tensor) -> None:
    if x.dim() == 4 and x.shape[-1] in (1, 3) and x.shape[1] not in (1, 3):
        remedy = "move the channels by x.transpose(0, 3, 1, 2)"
        raise checks.fail("images (N, C, H, W)", "x.shape", tuple(x.shape), remedy)
