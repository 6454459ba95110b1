"""A law: a named check that raises where a plug-in breaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


class LawBroken(AssertionError):  # noqa: N818  # pytest reports an AssertionError as a failure
    """A plug-in breaks its contract; the message says which law, and what was seen."""


@dataclass(frozen=True)
class Law:
    """One check of one plug-in, to be called.

    Args:
        plugin: Name of the plug-in.
        name: What must hold.
        check: Raises `LawBroken` where it does not.
    """

    plugin: str
    name: str
    check: Callable[[], None]

    def __call__(self) -> None:
        """Check it."""
        self.check()

    def __str__(self) -> str:
        return f"{self.plugin}-{self.name}"


def require(holds: bool, law: str, seen: object) -> None:
    """Raise where a law does not hold."""
    if not holds:
        raise LawBroken(f"{law}; seen: {seen}")
