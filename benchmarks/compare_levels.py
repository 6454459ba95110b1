"""How often `compare` blames an unchanged release, and how often it finds a drop: whole tables, drawn and judged.

A sample is right where `level + hardness + training + own > 0`: hardness normal with variance 1, what a training adds
to all samples, and what one training does to one sample. Rows are judged by what `compare` itself calls
(`differences.tested`, `compare.judged`); rows that are beyond doubt not significant alone are passed on as such.

    python benchmarks/compare_levels.py --write benchmarks/COMPARE.md
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from robustsuite.core.paired import SHARES
from robustsuite.results.changes import Change, Row
from robustsuite.results.compare import ALPHA, MIN_EFFECT, judged
from robustsuite.results.differences import tested
from robustsuite.results.pairing import Outcomes

Floats = NDArray[np.float64]
OWN = 0.7  # standard deviation of what one training does to one sample
_SURELY = 1.9  # below so many standard errors no test at 5 % is significant


@dataclass(frozen=True)
class Table:
    """A release and the one before.

    Args:
        repeats: Trainings on either side.
        spreads: Standard deviation of the rate over trainings, of each row in turn, as a rate.
        rows: Rows of the table.
        n: Samples.
        rate: Mean rate of the old release, and of the new one but for the first row.
        drop: What the first row lost.
        shape: How trainings scatter: `normal`, `skewed` (lognormal, a tail to the worse) or `rare` (one in ten falls).
        shared: Correlation of what a training adds to the rows of one defence, of which there are five each.
        same: Whether both releases have the same trained models.
        own: What one training, or one play of the attack, does to one sample.
    """

    repeats: int
    spreads: tuple[float, ...] = (0.0,)
    rows: int = 30
    n: int = 1000
    rate: float = 0.5
    drop: float = 0.0
    shape: str = "normal"
    shared: float = 0.0
    same: bool = False
    own: float = OWN

    def draw(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Outcomes `(rows, 2, repeats, n)`."""
        wide = math.sqrt(1 + self.own**2)
        slope = norm.pdf(norm.ppf(self.rate)) / wide
        rates = np.full((self.rows, 2), self.rate)
        rates[0, 1] -= self.drop
        level = norm.ppf(rates)[:, :, None, None] * wide
        spread = np.resize(self.spreads, self.rows)[:, None, None, None] / slope
        training = spread * self._trainings(rng)[..., None]
        hardness = rng.standard_normal((self.rows, 1, 1, self.n), dtype=np.float32)
        own = self.own * rng.standard_normal((self.rows, 2, self.repeats, self.n), dtype=np.float32)
        return np.asarray(level + training + hardness + own > 0)

    def _trainings(self, rng: np.random.Generator) -> Floats:
        """What each training adds, with mean 0 and variance 1, `(rows, 2, repeats)`."""
        sides = 1 if self.same else 2
        defence = np.repeat(rng.standard_normal((-(-self.rows // 5), sides, self.repeats)), 5, axis=0)[: self.rows]
        alone = rng.standard_normal((self.rows, sides, self.repeats))
        z = math.sqrt(self.shared) * defence + math.sqrt(1 - self.shared) * alone
        if self.shape == "skewed":
            z = -(np.exp(z) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)
        elif self.shape == "rare":
            z = -((norm.cdf(z) < 0.1) - 0.1) / 0.3
        return np.broadcast_to(z, (self.rows, 2, self.repeats))


@dataclass(frozen=True)
class Found:
    """Shares of tables.

    Args:
        blamed: With a regression in a row that has not changed.
        changed: With a regression or an improvement in such a row.
        called: Whose first row is a regression.
        needed: Median of the repeats that an undecided first row is told to need; NaN where none is.
    """

    blamed: float
    changed: float
    called: float
    needed: float = math.nan


def measure(table: Table, draws: int, seed: int = 0) -> Found:
    """Draw and judge whole tables."""
    rng = np.random.default_rng(seed)
    counts, needed = np.zeros(3), []
    for _ in range(draws):
        rows = judged(_rows(table.draw(rng)), ALPHA, MIN_EFFECT)
        steady = rows[1:] if table.drop else rows
        blamed = any(row.verdict is Change.REGRESSION for row in steady)
        improved = any(row.verdict is Change.IMPROVEMENT for row in steady)
        counts += (blamed, blamed or improved, rows[0].verdict is Change.REGRESSION)
        open_ = rows[0].verdict is Change.UNDECIDED and rows[0].repeats_needed is not None
        needed += [rows[0].repeats_needed] if open_ else []
    return Found(*(counts / draws), needed=float(np.median(needed)) if needed else math.nan)


def _rows(outcomes: NDArray[np.bool_]) -> list[Row]:
    ids = np.arange(outcomes.shape[-1])
    blank = Row("ours", "pgd", "evasion", metric="robust_accuracy", better="higher", unit="rate")
    rows = []
    for plain, (old, new) in zip(_plain(outcomes), outcomes, strict=True):
        if plain:
            rows.append(replace(blank, n=len(ids), repeats=len(old), difference=0.0, p=1.0, p_weights=1.0))
        else:
            rows.append(tested(blank, *([Outcomes(ids, one) for one in side] for side in (old, new))))
    return rows


def _plain(outcomes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Rows whose p-value is above 5 % beyond doubt, which no step of Holm's method asks for: they cost only time."""
    flips = outcomes[:, 1].astype(np.int8) - outcomes[:, 0]
    _, repeats, n = flips.shape
    value = np.abs(flips.mean((1, 2)))
    least = [_SURELY * np.sqrt((flips.mean(1) ** 2).mean(1) / n)]
    if repeats > 1:
        # Ends of both intervals with what samples add left out, at the most degrees of freedom that there can be.
        paired, apart = flips.mean(2).var(1, ddof=1), outcomes.mean(3).var(2, ddof=1).sum(1)
        quantiles = [-student.ppf(ALPHA * share / 2, k * (repeats - 1)) for k, share in enumerate(SHARES, 1)]
        ends = [q * np.sqrt(found / repeats) for q, found in zip(quantiles, (paired, apart), strict=True)]
        least.append(np.minimum(*ends))
    return np.asarray(value < np.maximum.reduce(least))


def unchanged() -> list[tuple[str, Table]]:
    """Tables in which nothing got worse."""
    mixed = (0.0, 0.12)
    found = [
        (f"spread {100 * spread:g} points", Table(repeats, (spread,)))
        for spread in (0.0, 0.02, 0.06, 0.12)
        for repeats in (2, 3, 5)
    ]
    for repeats in (2, 3, 5):
        found += [
            ("half of the rows 0, half 12 points", Table(repeats, mixed)),
            ("the same, skewed to the worse", Table(repeats, mixed, shape="skewed")),
            ("the same, one training in ten falls", Table(repeats, mixed, shape="rare")),
            ("12 points, correlation 0.8 within a defence", Table(repeats, (0.12,), shared=0.8)),
            ("6 points, 100 samples, rate 90 %", Table(repeats, (0.06,), n=100, rate=0.9)),
        ]
    found += [
        (f"the same weights, another play of the attack, {own:g}", Table(1, same=True, own=own)) for own in (0.1, OWN)
    ]
    return found


def dropped() -> list[tuple[str, Table]]:
    """Tables whose first row lost 10 points."""
    found = [("spread 2 points", Table(repeats, (0.02,), drop=0.1)) for repeats in (2, 3, 4, 5, 8)]
    found += [("spread 2 points, the other rows 0 and 12", Table(5, (0.02, 0.0, 0.12), drop=0.1))]
    found += [("spread 6 points", Table(repeats, (0.06,), drop=0.1)) for repeats in (5, 16, 24)]
    weights = {"drop": 0.1, "same": True, "own": 0.1}
    found += [("spread 12 points, the same weights", Table(repeats, (0.12,), **weights)) for repeats in (1, 3, 5)]
    return found


def page(draws: int) -> str:
    """The tables as Markdown."""
    lines = [
        "# How often `compare` errs, and what it finds",
        "Written by `benchmarks/compare_levels.py`.",
        f"{draws} tables of 30 rows each, 1000 samples a row unless it says otherwise, at `alpha` 0.05. A sample is "
        "right where the sum of its hardness (variance 1), what the training adds to all samples (as wide as named), "
        f"and what one training does to one sample ({OWN}; for the same weights what another play of the attack does, "
        "0.1 where nothing is said) is above a level.",
        "## Nothing has changed",
        "Share of tables with a regression, and with a regression or an improvement; each is to be at most 5 %. Of the "
        "last two kinds ten times as many are drawn.",
        "| what | repeats | a regression % | a change % |\n|---|---|---|---|",
    ]
    for seed, (name, table) in enumerate(unchanged()):
        found = measure(table, draws * (10 if table.repeats == 1 else 1), seed)
        lines[-1] += f"\n| {name} | {table.repeats} | {100 * found.blamed:.1f} | {100 * found.changed:.1f} |"
    lines += [
        "## One row lost 10 points",
        "Share of tables that call it a regression. Where it stays open, the row says how many repeats would call it "
        "in four of five comparisons: the median is beside.",
        "| what | repeats | called % | repeats needed, it says | a regression elsewhere % |\n|---|---|---|---|---|",
    ]
    for seed, (name, table) in enumerate(dropped()):
        found = measure(table, draws, 1000 + seed)
        needed = "-" if math.isnan(found.needed) else f"{found.needed:.0f}"
        cells = f"{table.repeats} | {100 * found.called:.1f} | {needed} | {100 * found.blamed:.1f}"
        lines[-1] += f"\n| {name} | {cells} |"
    return "\n\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="tables of each kind")
    parser.add_argument("--write", type=Path, help="Markdown file to write")
    asked = parser.parse_args()
    started = time.perf_counter()
    text = page(asked.draws)
    print(text)
    print(f"{time.perf_counter() - started:.0f} s")
    if asked.write:
        asked.write.write_text(text)


if __name__ == "__main__":
    main()
