"""Time that is limited: how it is written, and where work that it ends can be left."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from robustsuite.core import checks

_FORM: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?|(\d+(?:\.\d+)?)")
_LOOK: ContextVar[Callable[[], None] | None] = ContextVar("robustsuite_deadline", default=None)


class OutOfTime(BaseException):  # no error: what is caught as an exception on the way must let it pass
    """The time for this work is over; what it had not finished has no result."""


@contextmanager
def watched(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` at every `pause` of the block; it may raise `OutOfTime`."""
    token = _LOOK.set(look)
    try:
        yield
    finally:
        _LOOK.reset(token)


@contextmanager
def unwatched() -> Iterator[None]:
    """Work in the block that no deadline ends."""
    token = _LOOK.set(None)
    try:
        yield
    finally:
        _LOOK.reset(token)


def pause() -> None:
    """A place at which work may end: before every pass through a network."""
    look = _LOOK.get()
    if look is not None:
        look()


def seconds_of(name: str, value: object) -> float:
    """A span of time in seconds.

    Args:
        name: What it is called.
        value: `"30s"`, `"10m"`, `"1h30m"`, or a number of seconds, also as text.

    Raises:
        RequestError: No such text, or no time at all.

    Example:
        >>> seconds_of("budget", "1h30m"), seconds_of("budget", "90"), seconds_of("budget", 2.5)
        (5400.0, 90.0, 2.5)
    """
    found = _FORM.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if found is not None and any(found.groups()):
        hours, minutes, seconds, bare = (float(part or 0) for part in found.groups())
        total: object = 3600 * hours + 60 * minutes + seconds + bare
    else:
        total = checks.plain_number(value)
    whole = isinstance(total, (int, float)) and not isinstance(total, bool)
    if not whole or not math.isfinite(total) or total <= 0:  # type: ignore[operator,arg-type]
        raise checks.fail("a time above 0", name, value, "write it like 30s, 10m, 1h30m, or in seconds")
    return float(total)  # type: ignore[arg-type]


def in_words(seconds: float) -> str:
    """A span of time, as `seconds_of` reads it; from a minute on by fives, from an hour on by minutes.

    Example:
        >>> in_words(28.2), in_words(151), in_words(5431), in_words(0.3)
        ('28s', '2m30s', '1h31m', '1s')
    """
    if seconds < 60:
        return f"{max(1, round(seconds))}s" if round(seconds) < 60 else "1m"
    minutes, rest = divmod(5 * round(seconds / 5), 60)
    if minutes < 60:
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}h{minutes}m" if minutes else f"{hours}h"
