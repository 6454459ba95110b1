"""The time that a person has for an evaluation: what is spent, what fits in, and which samples are judged next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

from robustsuite.core.deadline import OutOfTime, seconds_of, watched
from robustsuite.evaluation.growing import Growing
from robustsuite.evaluation.looks import InterimLook
from robustsuite.storage.files import write_atomically

_STATE: Final = "clock.json"
_BEAT: Final = 1.0  # seconds between two notes of what is spent; so much of it a kill may forget
_MARGIN: Final = 1.3  # of the forecast, that a batch must fit in with: batches of one size differ by about as much
_GROWTH: Final = 4  # times as many samples after a batch as before it, at most: a forecast holds so far
_APART: Final = 2  # times as many samples in one batch as in another, from which on a line through them is believed
_RESERVE: Final = (0.5, 0.02, 3.0)  # seconds for joining and the clean figures: at least, as a share, at most


@dataclass(frozen=True)
class TimeBudget:
    """Time for a whole evaluation.

    Args:
        time: `"30s"`, `"10m"`, `"1h30m"`, or seconds, above 0.
        keep: Folder in which judged batches and the time spent are kept, so that the same evaluation goes on there
            after a kill, or with more time; None keeps nothing.
        since: When it began, as `time.monotonic` tells; None for now.
        reserve: Seconds of it for what comes after the evaluation, at least 0.

    Raises:
        RequestError: No such time.
    """

    time: float | str
    keep: Path | str | None = None
    since: float | None = None
    reserve: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "since", monotonic() if self.since is None else self.since)
        _ = self.seconds

    @property
    def seconds(self) -> float:
        """The whole of it."""
        return seconds_of("budget", self.time)


class BatchCost(NamedTuple):
    """A batch that was judged: samples, and seconds that they took."""

    samples: int
    seconds: float


def forecast(samples: int, batches: Sequence[BatchCost]) -> float:
    """Seconds for a batch of so many samples.

    What every batch costs and what every sample costs, by least squares, where batches of sizes apart tell the two
    from each other; else in proportion. The first batch is left out where others follow: it has warmed everything up.

    Args:
        samples: At least 1.
        batches: What was judged so far, at least one.

    Example:
        >>> warm = [BatchCost(16, 9.0), BatchCost(10, 3.0), BatchCost(30, 5.0)]
        >>> forecast(32, warm[:1]), forecast(20, warm[:2]), forecast(100, warm)
        (18.0, 6.0, 12.0)
    """
    told = batches[1:] or batches
    sizes = [batch.samples for batch in told]
    mean, level = (sum(column) / len(told) for column in zip(*told, strict=True))
    if max(sizes) >= _APART * min(sizes):
        spread = sum((size - mean) ** 2 for size in sizes)
        each = sum((batch.samples - mean) * (batch.seconds - level) for batch in told) / spread
        if 0 < each <= level / mean:
            return float(level + each * (samples - mean))
    return float(level / mean * samples)


class Clock:
    """A budget as it runs out.

    Args:
        budget: How much there is, and where it is kept.
        key: What is evaluated; what another evaluation spent does not count.

    Attributes:
        batches: What was judged so far.
        end: Seconds of the budget after which nothing is judged.
    """

    def __init__(self, budget: TimeBudget, key: str) -> None:
        self._budget, self._key = budget, key
        self._path = None if budget.keep is None else Path(budget.keep) / _STATE
        self._before, self.batches = self._read()
        self._beaten = 0.0
        least, share, most = _RESERVE
        reserve = budget.reserve + min(most, max(least, share * budget.seconds))
        self.end = budget.seconds - min(reserve, budget.seconds / 2)

    @property
    def seconds(self) -> float:
        """The whole budget."""
        return self._budget.seconds

    @property
    def spent(self) -> float:
        """Seconds spent so far, those before a kill among them."""
        return self._before + monotonic() - (self._budget.since or 0.0)

    def look(self) -> None:
        """Note what is spent.

        Raises:
            OutOfTime: Nothing is left for judging.
        """
        spent = self.spent
        if spent - self._beaten > _BEAT:
            self._write()
        if spent > self.end:
            raise OutOfTime

    def take(self, growing: Growing, n: int) -> bool:
        """Judge so many samples in all; whether that was finished in time."""
        started, before = monotonic(), growing.n
        try:
            with watched(self.look):
                self.look()
                growing.take_to(n, hurried=before == 0)
        except OutOfTime:
            return False
        self.batches.append(BatchCost(n - before, monotonic() - started))
        self._write()
        return True

    def again(self, growing: Growing) -> None:
        """Take in the batches that were judged before, however little is left; the rest of them is forgotten."""
        for place, batch in enumerate(self.batches):
            if not growing.recall(growing.n + batch.samples):
                del self.batches[place:]
                return

    def next(self, plan: Sequence[InterimLook], n: int) -> InterimLook | None:
        """The look to take when `n` samples are judged: the largest that fits, and does not run far ahead.

        None where none fits, or all is judged.
        """
        ahead = [look for look in plan if look.n > n]
        if n == 0:
            return ahead[0]
        left = (self.end - self.spent) / _MARGIN
        fits = [k for k in ahead if k.n <= _GROWTH * n and forecast(k.n - n, self.batches) <= left]
        return fits[-1] if fits else None

    def facts(self, plan: Sequence[InterimLook], n: int) -> dict[str, Any]:
        """What a record says of the time, once `n` samples are judged."""
        told: dict[str, Any] = {
            "seconds": self.seconds,
            "spent": round(self.spent, 1),
            "judged": n,
            "given": plan[-1].n,
        }
        if n == 0:
            return told
        look = next(look for look in plan if look.n == n)
        told |= {"level": look.level, "full_level": plan[-1].level}
        if n < plan[-1].n:
            left = plan[-1].n - n
            told["per_sample"] = round(forecast(left, self.batches) / left, 4)
        return told

    def _read(self) -> tuple[float, list[BatchCost]]:
        # What is torn or of another evaluation costs nothing but the time that was spent on it.
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            told = {} if self._path is None else json.loads(self._path.read_text())
            if told.get("key") == self._key:
                return float(told["spent"]), [BatchCost(int(n), float(t)) for n, t in told["batches"]]
        return 0.0, []

    def _write(self) -> None:
        self._beaten = self.spent
        if self._path is not None:
            told = {"key": self._key, "spent": self._beaten, "batches": self.batches}
            write_atomically(self._path, json.dumps(told).encode(), durable=False)


def looked(growing: Growing, plan: Sequence[InterimLook], clock: Clock | None = None) -> Iterator[InterimLook]:
    """Judge batch after batch, and yield each look; whoever has seen enough stops.

    Args:
        growing: What is judged so far.
        plan: The looks that may be taken, the last at all samples.
        clock: Ends it when time does, and leaves out looks; without one each is taken.
    """
    if clock is None:
        for look in plan:
            growing.take_to(look.n)
            yield look
        return
    clock.again(growing)
    if growing.n > 0:
        yield next(look for look in plan if look.n == growing.n)
    while not growing.failed and (ahead := clock.next(plan, growing.n)) is not None:
        if not clock.take(growing, ahead.n):
            return
        yield ahead
