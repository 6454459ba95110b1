"""How the codes of suspicion in records read, those that nobody here knows and those that were settled among them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from robustsuite.core.suspicions import RESOLVED, Effect, Suspicion


@dataclass(frozen=True)
class Flag:
    """One code, in words.

    Args:
        code: As it stands in records.
        meaning: One line: what was seen; empty for a code that is not known here.
        remedy: One line: what settles it.
        withholds: Whether a number under it may not be called the best of its column.
    """

    code: str
    meaning: str
    remedy: str = ""
    withholds: bool = False


def describe(code: str) -> Flag:
    """The meaning of a code; one that is not known here stands for itself.

    A code behind `resolved:` was a doubt that follow-up attacks settled; it withholds nothing, unless nobody knows it.
    """
    known = Suspicion.of(code.removeprefix(RESOLVED))
    if code.startswith(RESOLVED):
        was = "" if known is None else known.meaning
        return Flag(
            code,
            f"resolved by follow-up attacks, which the verdict counts; the doubt: {was}",
            withholds=known is None,
        )
    if known is None:
        return Flag(code, "", withholds=True)
    return Flag(code, known.meaning, known.remedy, Effect.WITHHOLDS in known.effects)


def concerning(codes: Iterable[str], metric: str, beside: Collection[str] = ()) -> tuple[str, ...]:
    """Those codes that cast doubt on a metric.

    Args:
        codes: Flags of its record.
        metric: Its name.
        beside: All metrics of the record; a doubt about a metric that is not among them falls on all the others.
    """
    kept = []
    for code in dict.fromkeys(codes):
        known = Suspicion.of(code.removeprefix(RESOLVED))
        about = () if known is None else known.concerns
        if metric in about or not set(about) & set(beside):
            kept.append(code)
    return tuple(kept)


def believable(codes: Iterable[str]) -> bool:
    """Whether a number under these doubts may be called the best of its column; codes that nobody knows withhold it."""
    return not any(describe(code).withholds for code in codes)
