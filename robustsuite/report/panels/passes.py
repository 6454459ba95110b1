"""Success against passes: what share of samples was broken after how many forward and backward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robustsuite.core.payloads import Cost
from robustsuite.plugins import register
from robustsuite.report.panels.charts import Axis, Chart, Point, Series, draw
from robustsuite.report.pieces import Charts, Exhibit, Section, key
from robustsuite.results import words

if TYPE_CHECKING:
    from torch import Tensor

_FEW: Final = 10  # passes up to which an attack is no search, and its curve no curve
_FINE: Final = 80  # steps of a line
_MARKS: Final = (1.0, 2.0, 5.0)  # of each power of ten, where an interval is drawn
_LEAD: Final = (
    "Share of samples that were broken after a number of forward and backward passes per sample, within the suite's "
    "radius. Where a line still rises at its end, a longer attack would break more; bars are 95 % confidence intervals."
)


@register.panel("passes")
@dataclass(frozen=True, kw_only=True)
class PassesToBreak:
    """One chart per white-box attack of many passes, at the suite's own rules.

    An attack whose passes cannot be told apart by sample is left out.
    """

    asks = Cost
    order = 20

    def __call__(self, exhibits: Sequence[Exhibit[Cost]]) -> Section | None:
        """One section with a chart for each attack."""
        attacks: dict[str, dict[str, dict[int, Exhibit[Cost]]]] = {}
        for exhibit in exhibits:
            record = exhibit.record
            if exhibit.payload.until_broken is not None and record.knowledge == "white-box" and not record.sweep:
                attacks.setdefault(record.attack, {}).setdefault(record.defense, {}).setdefault(record.repeat, exhibit)
        charts = [(_chart(attack, defended), defended) for attack, defended in attacks.items()]
        drawn = tuple(chart for chart, _ in charts if chart is not None)
        shown = [one for chart, of in charts if chart is not None for same in of.values() for one in same.values()]
        return (
            Section("Attack success against compute", _LEAD, (Charts(drawn, key(shown)),), "Passes") if drawn else None
        )


def _chart(attack: str, defended: dict[str, dict[int, Exhibit[Cost]]]) -> Chart | None:
    last = max(exhibit.payload.spent for same in defended.values() for exhibit in same.values())
    if last <= _FEW:
        return None
    series = [
        Series(
            defense,
            tuple(_point(passes, _runs(same)) for passes in _places(last)),
            next(iter(same.values())).look,
            through=_line(_runs(same), last),
        )
        for defense, same in defended.items()
    ]
    x = Axis("passes a sample (log scale)", 1.0, last * 1.1, log=True)
    return draw(attack, x, Axis("broken, %", 0.0, 1.0, percent=True), series)


def _runs(same: dict[int, Exhibit[Cost]]) -> list[Tensor]:
    return [e.payload.until_broken for e in same.values() if e.payload.until_broken is not None]


def _places(last: int) -> list[float]:
    """Where an interval is drawn."""
    marks = [m * 10.0**power for power in range(len(str(last))) for m in _MARKS if m * 10**power < last]
    return [*marks, float(last)]


def _line(runs: Sequence[Tensor], last: int) -> tuple[tuple[float, float], ...]:
    grid = sorted({*_places(last), *(float(last) ** (step / _FINE) for step in range(_FINE + 1))})
    return tuple((x, sum(float((run <= x).double().mean()) for run in runs) / len(runs)) for x in grid)


def _point(passes: float, runs: Sequence[Tensor]) -> Point:
    from robustsuite.core.intervals import over_repeats, rate

    share = over_repeats([rate(run <= passes, "lower") for run in runs])
    told = f"{words.figure(share.value, 'rate')} % {words.interval(share.low, share.high, 'rate')}"
    return Point(passes, share.value, share.low, share.high, f"{told} after {passes:,.0f} passes, n = {share.n}")
