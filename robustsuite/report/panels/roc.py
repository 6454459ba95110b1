"""Receiver operating characteristics of whatever keeps scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robustsuite.core.intervals import over_repeats
from robustsuite.core.metric import Metric
from robustsuite.core.payloads import Scores
from robustsuite.plugins import register
from robustsuite.report.panels.charts import Axis, Chart, Point, Series, draw
from robustsuite.report.pieces import Charts, Exhibit, Grid, Section, key
from robustsuite.results import words

if TYPE_CHECKING:
    from robustsuite.core.roc import Roc

_RATES: Final = (0.001, 0.01)
_FINE: Final = 60  # places of a line in all, beside those of the first negatives
_FIRST: Final = 40
_LEAD: Final = (
    "How well scores tell positives from negatives, a line a defence: the share of positives that a threshold finds "
    "(TPR) against the share of negatives that it takes for positives (FPR), both on log scales. Dots mark guessing."
)
_NOTE: Final = (
    "Brackets: 95 % intervals, of AUC with the standard error of Hanley and McNeil (1982) taken at each end (Newcombe, "
    "2006), of TPR over the positives at the threshold that was found. Not resolvable: fewer negatives than one false "
    "positive takes at that rate."
)
Scored = Exhibit[Scores]


@register.panel("roc")
@dataclass(frozen=True, kw_only=True)
class RocCurves:
    """A chart per attack and kind of scores with a line a defence, and a row for each with area and TPR at low FPR."""

    asks = Scores
    order = 30

    def __call__(self, exhibits: Sequence[Scored]) -> Section | None:
        """One section with a chart for each attack and kind of scores, and one table."""
        cells: dict[tuple[str, str], dict[str, list[Scored]]] = {}
        for exhibit in exhibits:
            place = (exhibit.record.attack, exhibit.payload.title)
            if not exhibit.record.sweep:
                cells.setdefault(place, {}).setdefault(exhibit.record.defense, []).append(exhibit)
        if not cells:
            return None
        known = {place: {d: _curves(same) for d, same in of.items()} for place, of in cells.items()}
        charts = [_chart(place, of, known[place]) for place, of in cells.items()]
        rows = [_row(place, d, same, known[place][d]) for place, of in cells.items() for d, same in of.items()]
        heads = ("defence", "scores", "positives", "negatives", "AUC", *(f"TPR at {_percent(r)} FPR" for r in _RATES))
        shown = [exhibit for of in cells.values() for same in of.values() for exhibit in same]
        drawn = Charts(tuple(chart for chart in charts if chart is not None), key(shown))
        return Section("Scores", _LEAD, (drawn, Grid(heads, tuple(rows)), _NOTE), "ROC")


def _curves(same: Sequence[Scored]) -> list[Roc]:
    """A curve of each repeat that has positives and negatives."""
    from robustsuite.core.roc import roc

    both = (e.payload for e in same if 0 < int(e.payload.positive.sum()) < len(e.payload.positive))
    return [roc(payload.scores, payload.positive) for payload in both]


def _chart(place: tuple[str, str], of: dict[str, list[Scored]], curves: dict[str, list[Roc]]) -> Chart | None:
    first = {defense: known[0] for defense, known in curves.items() if known}
    if not first:
        return None
    # Down to half of what one sample is, so that none lies below.
    ends = (min(0.05, *(1 / (2 * max(curve.negatives, curve.positives)) for curve in first.values())), 1.0)
    x = Axis("false positive rate, % (log scale)", *ends, percent=True, log=True)
    y = Axis("true positive rate, % (log scale)", *ends, percent=True, log=True)
    series = [
        Series(defense, tuple(_points(curve, ends[0])), of[defense][0].look, tuple(_line(curve, ends[0])))
        for defense, curve in first.items()
    ]
    return draw(" · ".join(place), x, y, series, diagonal=True)


def _line(curve: Roc, least: float) -> list[tuple[float, float]]:
    """Corners at the first negatives, from one on, and places behind; what lies below the axis stands at its end."""
    import numpy as np

    n, m = curve.negatives, curve.positives
    fpr, tpr = (curve.false_positives.double() / n).numpy(), (curve.true_positives.double() / m).numpy()
    places = {place for step in range(_FINE + 1) if (place := float(least ** (1 - step / _FINE))) > 1 / n}
    steps = []
    for place in sorted(places | {k / n for k in range(1, min(_FIRST, n) + 1)}):
        # Between two thresholds a coin decides; at one, the higher of what stands above each other.
        before = int(np.searchsorted(fpr, place, side="right")) - 1
        after = min(before + 1, len(fpr) - 1)
        gap = fpr[after] - fpr[before]
        share = (place - fpr[before]) / gap if gap > 0 else 0.0
        steps.append((place, max(least, float(tpr[before] + share * (tpr[after] - tpr[before])))))
    return steps


def _points(curve: Roc, least: float) -> list[Point]:
    from robustsuite.core.roc import auc, resolvable, tpr_at

    told = f"AUC {_figure(auc(curve))}"
    rates = [rate for rate in _RATES if resolvable(curve, rate)] or [1 / max(curve.negatives, 2)]
    points = []
    for rate, found in ((rate, tpr_at(curve, rate)) for rate in rates):
        if not math.isnan(found.value):
            low, high = (None if end is None else max(end, least) for end in (found.low, found.high))
            text = f"{told}, TPR {_figure(found)} at {_percent(rate)} FPR"
            points.append(Point(rate, max(found.value, least), low, high, text))
    return points or [Point(1.0, 1.0, label=told)]


def _row(place: tuple[str, str], defense: str, same: Sequence[Scored], curves: Sequence[Roc]) -> tuple[str, ...]:
    from robustsuite.core.roc import auc, tpr_at

    payload, name = same[0].payload, " · ".join(place)
    counts = (int(payload.positive.sum()), int((~payload.positive).sum()))
    ns = (f"{counts[0]:,} {payload.positives}", f"{counts[1]:,} {payload.negatives}")
    if not curves:
        return (defense, name, *ns, *("no curve without either",), *("" for _ in _RATES))
    areas = over_repeats([auc(curve) for curve in curves])
    low = [[tpr_at(curve, rate) for curve in curves] for rate in _RATES]
    return (defense, name, *ns, _figure(areas), *(_rate(found) for found in low))


def _rate(found: Sequence[Metric]) -> str:
    told = [metric for metric in found if not math.isnan(metric.value)]
    return f"{_figure(over_repeats(told))}" if told else "not resolvable"


def _figure(metric: Metric) -> str:
    if metric.unit == "rate":
        return f"{words.figure(metric.value, 'rate')} % {words.interval(metric.low, metric.high, 'rate')}"
    if metric.low is None or metric.high is None:
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} [{max(0.0, metric.low):.3f}, {min(1.0, metric.high):.3f}]"


def _percent(rate: float) -> str:
    return f"{100 * rate:.3g} %"
