"""How metrics are called and how figures are written for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from robustsuite.core.metrics import Declared

_NOTHING: Final = Declared()
_COSTS: Final = {
    "forwards": "forward passes",
    "backwards": "backward passes",
    "queries": "queries",
    "passes_per_sample": "attack passes",
}
_SUFFIXES: Final = {
    "rate": "%",
    "rate difference": "points",
    "seconds": "s",
    "milliseconds": "ms",
    "passes per sample": "per sample",
}
_SILENT: Final = ("area", "count", "passes", "queries", "nats", "ssim", "linf", "l2", "l1")


def attack(label: str) -> str:
    """What heads the column of an attack: the worst case over all of them is the verdict."""
    return "verdict" if label == "worst-case" else label


def title(metric: str, meaning: Declared = _NOTHING) -> str:
    """The metric in words.

    Args:
        metric: Its name.
        meaning: What a record says of its figures.
    """
    return meaning.words(metric) if metric in meaning.metrics else _COSTS.get(metric, metric.replace("_", " "))


def place(metric: str, meaning: Declared) -> tuple[int, int, str]:
    """By what metrics are sorted: as their game declares them, then what they cost, others behind those by name."""
    costs = list(_COSTS)
    return meaning.place(metric), costs.index(metric) if metric in costs else len(costs), metric


def family(scenario: str) -> str:
    """The game's family in words."""
    return scenario.replace("_", " ").replace("-", " ") or "other"


def suffix(unit: str) -> str:
    """What stands behind a figure of this unit, or in its column's head."""
    return _SUFFIXES.get(unit, "" if unit in _SILENT else unit)


def some(names: Sequence[str], most: int, joint: str = ", ") -> str:
    """The first few of them, and how many there are more.

    Example:
        >>> some(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    rest = len(names) - most
    return joint.join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def figure(value: float, unit: str) -> str:
    """A figure as people read it: rates in percent, counts with separators, the rest in three digits.

    Example:
        >>> figure(0.9731, "rate"), figure(0.0004, "rate"), figure(12345, "count"), figure(2.9968, "nats")
        ('97.3', '0.04', '12,345', '3.00')
    """
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if unit == "rate":
        return _percent(value)
    if unit == "rate difference":
        return f"{100 * value:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0")
    if unit in ("count", "passes", "queries", "passes per sample"):
        return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
    if unit == "nats":
        return f"{value:.2f}"
    return f"{value:.3g}"


def _percent(value: float) -> str:
    """One decimal, or as many (up to three) as keep 99.96 % from reading as 100 % and 0.04 % as 0 %."""
    for places in (1, 2, 3):
        text = f"{100 * value:.{places}f}"
        rounded_away = (float(text) == 0.0 and value > 0) or (float(text) == 100.0 and value < 1)
        if not rounded_away:
            return text
    return f"{100 * value:.1f}"


def interval(low: float | None, high: float | None, unit: str) -> str:
    """The 95 % interval in brackets, empty where there is none."""
    if low is None or high is None:
        return ""
    return f"[{_end(low, unit)}, {_end(high, unit)}]"


def _end(value: float, unit: str) -> str:
    return f"{100 * value:.1f}" if unit == "rate" else figure(value, unit)
