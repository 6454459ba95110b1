"""The comparison table as data: what stands in each cell, before anybody draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from robustsuite.core import flags as doubts
from robustsuite.core.flags import Flag
from robustsuite.results import words

if TYPE_CHECKING:
    import pandas as pd

MARK: Final = "†"
_WORDS: Final = {"error": "error", "not_applicable": "n/a", "not_run": "not run"}
_NAMED: Final = 5  # names that a legend lists before it counts the others


@dataclass(frozen=True)
class Column:
    """One column of the comparison table.

    Args:
        attack: Label of the attack; empty for figures without an adversary.
        metric: Name of the metric; empty where no record of this attack has one.
        unit: Its unit.
        better: `higher`, `lower` or empty.
        scenario: The game, by which columns are grouped.
        words: What the metric is called; empty for its name.
        further: Whether another column before it is headed by this attack.
        joined: Whether it is the rate by which attacks of its game are joined into the verdict.
        ball: Norm and radius, where its game has a ball.
        at: Of a verdict, what tells its ball from those of other verdicts.
    """

    attack: str
    metric: str
    unit: str
    better: str
    scenario: str
    words: str = ""
    further: bool = False
    joined: bool = False
    ball: tuple[str, float | None] = ("", None)
    at: str = ""

    @property
    def called(self) -> str:
        """The metric in words."""
        return self.words or words.title(self.metric)

    @property
    def title(self) -> str:
        """What heads the column: the attack, or the metric where nobody attacks; no other column has it."""
        label = words.attack(self.attack) + (f" ({self.at})" if self.at else "")
        return f"{label}, {self.called}" if label and self.further else label or self.called

    @property
    def subtitle(self) -> str:
        """What is measured, its unit, and an arrow towards the better side."""
        arrow = {"higher": "↑", "lower": "↓"}.get(self.better, "")
        name = self.called if self.attack and self.metric and not self.further else ""
        return " ".join(part for part in (name, words.suffix(self.unit), arrow) if part)

    @property
    def heading(self) -> str:
        """Title and subtitle on one line."""
        joint = ": " if self.attack and self.subtitle and not self.further else " "
        return f"{self.title}{joint}{self.subtitle}".strip()


@dataclass(frozen=True)
class TableCell:
    """One cell of the comparison table.

    Args:
        value: The figure (the mean over repeats), None where there is none.
        low: Lower end of its 95 % interval, or None.
        high: Upper end, or None.
        n: Samples that it rests on, over all repeats; 0 where it is no sample statistic.
        unit: Its unit.
        flags: Codes of doubts about this figure.
        status: As in records, or `absent` where the metric does not exist for this defence.
        best: Whether it is the best of its column among figures that can be believed.
        message: Why, where the status is not ok; of a verdict, by whom samples were broken.
        judged: What comparisons of defences go by, where it is not the value: with follow-ups and the verdict counted.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = ""
    flags: tuple[str, ...] = ()
    status: str = "absent"
    best: bool = False
    message: str = ""
    judged: float | None = None

    @property
    def rank(self) -> float | None:
        """By what this figure is compared with those of other defences."""
        return self.value if self.judged is None else self.judged

    @property
    def text(self) -> str:
        """The figure with "?" where it is inconclusive, or the word for why there is none."""
        if self.value is None:
            return _WORDS.get(self.status, "?" if self.status == "inconclusive" else "–")
        return words.figure(self.value, self.unit) + ("?" if self.status == "inconclusive" else "")

    @property
    def interval(self) -> str:
        """The 95 % interval in brackets, or empty."""
        return words.interval(self.low, self.high, self.unit) if self.value is not None else ""

    @property
    def mark(self) -> str:
        """A dagger where the figure is under doubt."""
        return MARK if self.flags and self.value is not None else ""


@dataclass(frozen=True)
class ComparisonTable:
    """A row per defence and a column per headline.

    Args:
        rows: Labels of the defences, in plan order.
        columns: What stands in each column.
        cells: One row of cells per defence.
    """

    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: tuple[tuple[TableCell, ...], ...]

    def cell(self, row: str, column: str) -> TableCell:
        """The cell of this defence under the column of this title (`verdict` for the worst case).

        Raises:
            KeyError: No such row or column.
        """
        titles = [c.title for c in self.columns]
        if row not in self.rows or column not in titles:
            raise KeyError(f"expected a row of {self.rows} and a column of {titles}, got {row!r}, {column!r}")
        return self.cells[self.rows.index(row)][titles.index(column)]

    @property
    def inconclusive(self) -> bool:
        """Whether any of its figures is."""
        return any(cell.status == "inconclusive" for cells in self.cells for cell in cells)

    def frame(self) -> pd.DataFrame:
        """The table as text: defences down, headings across."""
        import pandas as pd

        text = [[" ".join(p for p in (c.text + c.mark, c.interval) if p) for c in row] for row in self.cells]
        return pd.DataFrame(text, index=pd.Index(self.rows, name="defense"), columns=[c.heading for c in self.columns])

    def legend(self) -> tuple[tuple[Flag, str], ...]:
        """Every doubt about a figure shown, and where it applies."""
        places: dict[str, dict[str, list[str]]] = {}
        for row, cells in zip(self.rows, self.cells, strict=True):
            for column, cell in zip(self.columns, cells, strict=True):
                for code in cell.flags if cell.value is not None else ():
                    places.setdefault(code, {}).setdefault(row, []).append(column.title)
        shown = sum(cell.value is not None for cells in self.cells for cell in cells)
        return tuple((doubts.describe(code), _where(found, shown)) for code, found in places.items())


def _where(places: dict[str, list[str]], shown: int) -> str:
    """The rows with their columns, the first few by name."""
    if sum(len(columns) for columns in places.values()) == shown:
        return "everywhere"
    named = [f"{row}: {words.some(columns, _NAMED)}" for row, columns in places.items()]
    return words.some(named, _NAMED, "; ")
