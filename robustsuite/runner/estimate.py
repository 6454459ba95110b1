"""How long a plan will take, from what such work took before: on this machine, and in this run so far."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from robustsuite.core.canonical import digest, plain
from robustsuite.runner.plan import Node, Plan
from robustsuite.storage.files import write_atomically

_MEMORY: Final = 0.3  # weight of the newest figure, so that a machine that got faster is believed soon
_FILE: Final = "timings.json"


@dataclass(frozen=True)
class Forecast:
    """What is left.

    Args:
        seconds: Wall time for what could be estimated, on so many slots.
        known: Nodes that could be estimated.
        unknown: Nodes of which nothing like it was timed yet.
    """

    seconds: float
    known: int
    unknown: int

    def __str__(self) -> str:
        if self.known == 0 and self.unknown > 0:
            return "nothing like it was timed here yet"
        at_least = "at least " if self.unknown else "about "
        return f"{at_least}{duration(self.seconds)}"


class Timings:
    """Seconds of finished work, by how much it is like the work that is asked about.

    Args:
        plan: What is estimated.
        folder: Where figures of earlier runs are kept.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan, self._path = plan, folder / _FILE
        self._rates: dict[str, float] = {}
        # A file that is torn or foreign costs nothing but the estimate.
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            told = json.loads(self._path.read_text())
            self._rates = {str(k): float(v) for k, v in told.items() if float(v) >= 0}
        self._fresh: dict[str, float] = {}
        self._families: dict[str, tuple[str, ...]] = {}

    def observe(self, node: Node, seconds: float) -> None:
        """Learn from a finished node."""
        rate = seconds / self._size(node)
        for kin in self._kin(node):
            for rates in (self._rates, self._fresh):
                before = rates.get(kin, rate)
                rates[kin] = before + _MEMORY * (rate - before)

    def seconds(self, node: Node) -> float | None:
        """What this node will take; None where nothing like it was timed."""
        for kin in self._kin(node):
            if kin in self._rates:
                return self._rates[kin] * self._size(node)
        return None

    def forecast(self, nodes: Sequence[Node], slots: int) -> Forecast:
        """Time for these nodes side by side; never less than the longest of them."""
        told = [seconds for seconds in map(self.seconds, nodes) if seconds is not None]
        total = max(sum(told) / slots, max(told, default=0.0))
        return Forecast(total, len(told), len(nodes) - len(told))

    def save(self) -> None:
        """Keep what was learned for later runs; what another run kept meanwhile stays, where this one saw nothing."""
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(self._path.read_text()) if self._path.is_file() else {}
            write_atomically(self._path, json.dumps({**told, **self._fresh}, sort_keys=True).encode())

    def _size(self, node: Node) -> float:
        """By how much the time of such work grows: samples, and epochs of a training."""
        suite, (train, test) = self._plan.suite, self._plan.sizes
        if node.kind == "cell":
            return max(1, min(test, suite.threat.curve_samples) if node.cell.curve else test)
        if node.kind in ("training", "retraining"):
            return max(1, train * getattr(suite.training_for(node.cell.defense), "epochs", 1))
        return max(1, train)

    def _kin(self, node: Node) -> tuple[str, ...]:
        """Names of ever larger families of work that this node belongs to."""
        if node.key not in self._families:
            suite, cell = self._plan.suite, node.cell
            trains = node.kind == "training"
            attack, written = ("", "") if trains else (cell.attack.name, cell.attack.written())
            defense = "" if node.kind in ("job", "artefact") else cell.defense.written()
            place = [node.kind, self._plan.device.partition(":")[0], suite.threads]
            exact = [suite.dataset.name, suite.model.written(), plain(asdict(suite.training)), defense, written]
            families: tuple[list[Any], ...] = (exact, [suite.dataset.name, suite.model.label, attack], [attack], [])
            self._families[node.key] = tuple(digest([*place, *alike]) for alike in families)
        return self._families[node.key]


def duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> duration(8), duration(180), duration(9000)
        ('8 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
