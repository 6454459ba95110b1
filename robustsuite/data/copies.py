"""What foreign code is shown are copies; what it was lent is compared with a copy afterwards, and put back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from robustsuite.core.ball import Ball
from robustsuite.core.errors import TamperingError
from robustsuite.core.samples import Samples

T = TypeVar("T")

_TENSORS: Final = ("x", "y", "ids", "places")
_FACTS: Final = ("classes", "bounds")


def shown(view: T) -> T:
    """The same view with tensors, samples and ball of its own, so that whoever sees it may write to it.

    Copied are the fields of a dataclass, or the items of a tuple, list or dict; models, oracles and meters are shared.
    Memory is not: also slices, expanded tensors and views of NumPy arrays come in storage of their own.

    Example:
        >>> given = (torch.zeros(2), "a")
        >>> shown(given)[0].add_(1), given[0]
        (tensor([1., 1.]), tensor([0., 0.]))
    """
    if dataclasses.is_dataclass(view) and not isinstance(view, (type, Samples, Ball)):
        twin = copy.copy(view)
        for field in dataclasses.fields(view):
            object.__setattr__(twin, field.name, _apart(getattr(view, field.name)))
        return twin
    found: T = _apart(view)
    return found


def written(view: Any, before: Any) -> tuple[str, ...]:
    """Names of the fields whose tensors, samples or ball differ from those before; empty where all are as they were.

    Args:
        view: What was shown, a dataclass or one value.
        before: A copy of it by `shown`, from before.
    """
    if dataclasses.is_dataclass(view) and not isinstance(view, (type, Samples, Ball)):
        fields = [field.name for field in dataclasses.fields(view)]
        return tuple(name for name in fields if not _alike(getattr(view, name), getattr(before, name)))
    return () if _alike(view, before) else (type(before).__name__,)


def _alike(now: Any, then: Any) -> bool:
    if isinstance(then, Tensor):
        return isinstance(now, Tensor) and now.dtype == then.dtype and torch.equal(now, then)
    if isinstance(then, Samples):
        pairs = [(getattr(now, name, None), getattr(then, name)) for name in (*_TENSORS, *_FACTS)]
        return all(_alike(*pair) for pair in pairs)
    if type(then) in (tuple, list):
        return len(now) == len(then) and all(map(_alike, now, then))
    if type(then) is dict:
        return now.keys() == then.keys() and all(_alike(now[key], then[key]) for key in then)
    return not isinstance(then, (Ball, int, float, str)) or bool(now == then)


def _apart(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, Samples):
        return value.copy()
    if isinstance(value, Ball):
        return copy.copy(value)
    if type(value) in (tuple, list):
        return type(value)(_apart(item) for item in value)
    if type(value) is dict:
        return {key: _apart(item) for key, item in value.items()}
    return value


@contextmanager
def lent(who: str, *samples: Samples | None) -> Iterator[None]:
    """Samples that foreign code might reach in this block; what it writes to them is undone, and is an error.

    Args:
        who: Whom the error names.
        *samples: What is lent; None is passed over.

    Raises:
        TamperingError: They were written to. Where the block raises, that error goes on instead.
    """
    kept = [(given, given.copy()) for given in {id(s): s for s in samples if s is not None}.values()]
    try:
        yield
    except BaseException:
        for given, before in kept:
            _put_back(given, before)
        raise
    changed = [_put_back(given, before) for given, before in kept]
    if any(changed):
        raise TamperingError(
            f"expected plug-ins that leave the data as they are, got {who}, under which they were written to; they "
            f"were put back, and nothing was kept: copy what is shown before writing to it"
        )


def _put_back(given: Samples, before: Samples) -> bool:
    """Whether these samples are no longer those from before; then they are again."""
    changed = False
    for name in _TENSORS:
        now, then = getattr(given, name), getattr(before, name)
        if now is None and then is None:
            continue
        same = isinstance(now, Tensor) and now.shape == then.shape and now.dtype == then.dtype
        if same and torch.equal(now, then):
            continue
        changed = True
        if same:
            with torch.no_grad():  # into the same memory, which others may hold too
                now.copy_(then)
        else:
            object.__setattr__(given, name, then)
    for name in _FACTS:
        if getattr(given, name) != getattr(before, name):
            changed = True
            object.__setattr__(given, name, getattr(before, name))
    return changed
