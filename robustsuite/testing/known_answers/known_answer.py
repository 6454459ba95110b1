"""What a known-answer test is: a few measurements, each beside the answer that is known beforehand."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One measurement beside its known answer.

    Args:
        what: What was measured.
        expected: The known answer.
        measured: What came out.
        ok: Whether they agree.
    """

    what: str
    expected: str
    measured: str
    ok: bool


@dataclass(frozen=True)
class KnownAnswer:
    """A game whose answer is known.

    Args:
        name: To choose it by.
        summary: What goes wrong in an installation where it fails.
        play: Plays it and yields what it finds.
    """

    name: str
    summary: str
    play: Callable[[], Iterator[Finding]]


@dataclass(frozen=True)
class Result:
    """What came of one known-answer test.

    Args:
        name: Of the test.
        summary: Of the test.
        findings: In order, up to where it raised.
        seconds: Wall time.
        error: A traceback where it raised, else empty.
    """

    name: str
    summary: str
    findings: tuple[Finding, ...]
    seconds: float
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it measured something, and all of that was as expected."""
        return bool(self.findings) and not self.error and all(finding.ok for finding in self.findings)


def outcomes(tests: Iterable[KnownAnswer], progress: Callable[[str, int, int], None] | None = None) -> Iterator[Result]:
    """Play each test; one that raises has failed, and the others go on.

    Args:
        tests: What to play.
        progress: Told what is played, how many are done, and how many there are.
    """
    listed = tuple(tests)
    for done, test in enumerate(listed):
        if progress is not None:
            progress(test.name, done, len(listed))
        yield _outcome(test)
    if progress is not None:
        progress("finished", len(listed), len(listed))


def _outcome(test: KnownAnswer) -> Result:
    started, error = time.perf_counter(), ""
    found: list[Finding] = []
    try:
        found.extend(test.play())  # what it found before it raised stays
    except Exception:  # whatever is broken here, the other tests still tell something
        error = traceback.format_exc(limit=-8)
    return Result(test.name, test.summary, tuple(found), time.perf_counter() - started, error)


def near(what: str, expected: float, measured: float, tolerance: float) -> Finding:
    """A figure within a tolerance of its known value."""
    told = f"{expected:.6g} ± {tolerance:g}" if tolerance else f"{expected:.6g}"
    return Finding(what, told, f"{measured:.6g}", bool(abs(measured - expected) <= tolerance))


def at_least(what: str, floor: float, measured: float) -> Finding:
    """A figure that is known to be no less than this."""
    return Finding(what, f">= {floor:g}", f"{measured:.4g}", bool(measured >= floor))


def at_most(what: str, ceiling: float, measured: float) -> Finding:
    """A figure that is known to be no more than this."""
    return Finding(what, f"<= {ceiling:g}", f"{measured:.4g}", bool(measured <= ceiling))


def same(what: str, expected: object, measured: object) -> Finding:
    """Values that are known to be equal."""
    return Finding(what, str(expected), str(measured), expected == measured)
