"""How scores of two kinds of samples are spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from robustsuite.core import Scores
from robustsuite.plugins import register
from robustsuite.report import Axis, Charts, Exhibit, Point, Section, Series, draw

_SHARES = tuple(step / 20 for step in range(21))


@register.panel("x-score-spread")
@dataclass(frozen=True, kw_only=True)
class ScoreSpread:
    """A chart for each record that keeps scores: what share of either kind lies below each place in the order of all.

    Two diagonals are scores that tell nothing.
    """

    asks = Scores
    order = 35

    def __call__(self, exhibits: Sequence[Exhibit[Scores]]) -> Section | None:
        """One section, a chart a record."""
        charts = []
        for exhibit in exhibits:
            record, kept = exhibit.record, exhibit.payload
            ranks = kept.scores.argsort().argsort().double() / max(1, len(kept.scores) - 1)
            kinds = ((kept.positives, kept.positive), (kept.negatives, ~kept.positive))
            lines = [self._line(name, ranks[which], look) for look, (name, which) in enumerate(kinds) if which.any()]
            x = Axis("place among all scores, %", 0.0, 1.0, percent=True)
            y = Axis("share below it, %", 0.0, 1.0, percent=True)
            charts.append(draw(f"{record.defense} · {record.attack}: {kept.title}", x, y, lines))
        key = tuple(dict.fromkeys((name, look) for e in exhibits for look, name in self._kinds(e.payload)))
        lead = "Where the scores of either kind lie in the order of all. Lines that part are scores that tell."
        return Section("How scores are spread", lead, (Charts(tuple(charts), key),), "Spread") if charts else None

    def _kinds(self, kept: Scores) -> tuple[tuple[int, str], ...]:
        return (0, kept.positives), (1, kept.negatives)

    def _line(self, name: str, ranks: torch.Tensor, look: int) -> Series:
        shares = [(place, float((ranks <= place).double().mean())) for place in _SHARES]
        points = (Point(place, share, label=f"{100 * share:.0f} % of {name}") for place, share in shares[::5])
        return Series(name, tuple(points), look, tuple(shares))
