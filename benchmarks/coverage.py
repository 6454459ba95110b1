"""How often intervals hold the truth and tests cry wolf: exact sums where there are sums, simulation elsewhere.

One-sample rates: the binomial mass of every outcome whose interval holds the true rate, added up. Paired rates: the
same over gained and lost. Repeats: trainings that differ, all judged on the same samples of different hardness, drawn.

    python benchmarks/coverage.py --write benchmarks/COVERAGE.md
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, multinomial, norm

from robustsuite.core.intervals import clopper_pearson, interval, over_repeats, wilson
from robustsuite.core.metric import Metric
from robustsuite.core.paired import crossed, holm, mcnemar, paired_interval

Rule = Callable[[int, int], tuple[float, float]]
Floats = NDArray[np.float64]
EXTREMES = np.linspace(0.001, 0.02, 39)  # every rule here is symmetric, so the mirrored ones agree


@dataclass(frozen=True)
class Found:
    """Coverage over a grid."""

    mean: float
    least: float
    most: float
    at: str
    within: float  # share of the grid in [0.93, 0.97]

    @classmethod
    def over(cls, values: Sequence[float], names: Sequence[str]) -> Found:
        array = np.asarray(values)
        inside = float(((array >= 0.93) & (array <= 0.97)).mean())
        return cls(float(array.mean()), float(array.min()), float(array.max()), names[int(array.argmin())], inside)

    def cells(self) -> str:
        figures = " | ".join(f"{100 * v:.2f}" for v in (self.mean, self.least, self.most))
        return f"{figures} | {self.at} | {100 * self.within:.1f}"


def one_sample(rule: Rule, n: int, rates: Floats) -> Floats:
    """Exact coverage of a rule for each true rate."""
    low, high = np.array([rule(k, n) for k in range(n + 1)]).T[:, :, None]
    mass = binom.pmf(np.arange(n + 1)[:, None], n, rates)
    return np.asarray((mass * ((low <= rates) & (rates <= high))).sum(0))


def rates_covered(rule: Rule, sizes: Iterable[int], rates: Floats) -> Found:
    """Mean over the rates, and the least over them and everything between."""
    values, names, edges = [], [], []
    for n in sizes:
        values += one_sample(rule, n, rates).tolist()
        names += [f"p {p:.4g}, n {n}" for p in rates]
        edges.append(lowest(rule, n, rates))
    found = Found.over(values, names)
    least, p, n = min(edges)
    return replace(found, least=least, at=f"p {p:.4g}, n {n}") if least < found.least else found


def lowest(rule: Rule, n: int, rates: Floats) -> tuple[float, float, int]:
    """The infimum over the range of the rates: coverage jumps at the ends of intervals, and only falls there."""
    ends = np.array([rule(k, n) for k in range(n + 1)]).ravel()
    beside = np.concatenate([ends - 1e-9, ends + 1e-9])
    beside = beside[(beside >= rates.min()) & (beside <= rates.max())]
    if len(beside) == 0:
        return 1.0, 0.0, n
    coverage = one_sample(rule, n, beside)
    return float(coverage.min()), float(beside[coverage.argmin()]), n


@cache
def paired_ends(n: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Every pair of gained and lost, and its interval."""
    flips = np.array([(g, x) for g in range(n + 1) for x in range(n + 1 - g)])
    return flips, np.array([paired_interval(int(g), int(x), n) for g, x in flips])


def differences_covered(sizes: Iterable[int], gains: Sequence[float], losses: Sequence[float]) -> Found:
    """Exact coverage of the paired interval over chances of gaining and losing a sample."""
    values, names = [], []
    for n in sizes:
        flips, ends = paired_ends(n)
        counts = np.column_stack([flips, n - flips.sum(1)])
        for gain in gains:
            for loss in losses:
                if gain + loss > 1 or gain + loss == 0:
                    continue
                holds = (ends[:, 0] <= gain - loss + 1e-9) & (gain - loss - 1e-9 <= ends[:, 1])
                chances = multinomial.pmf(counts, n, [gain, loss, 1 - gain - loss])
                values.append(float(chances[holds].sum()))
                names.append(f"gain {gain:g}, loss {loss:g}, n {n}")
    return Found.over(values, names)


@cache
def mcnemar_rejects(total: int, side: str, alpha: float) -> float:
    """Chance that so many flips, each either way with chance 1/2, are called significant."""
    mass = binom.pmf(np.arange(total + 1), total, 0.5)
    return float(sum(m for w, m in enumerate(mass) if mcnemar(w, total - w, side=side) <= alpha))


def mcnemar_level(n: int, flipping: float, side: str, alpha: float = 0.05) -> float:
    """Exact chance of a false alarm on n samples of which each flips with this chance."""
    mass = binom.pmf(np.arange(n + 1), n, flipping)
    return float(sum(m * mcnemar_rejects(t, side, alpha) for t, m in enumerate(mass) if m > 1e-12))


def mcnemar_levels(sizes: Iterable[int], flips: Sequence[float], side: str) -> Found:
    grid = [(n, f) for n in sizes for f in flips]
    return Found.over([mcnemar_level(n, f, side) for n, f in grid], [f"flips {f:g}, n {n}" for n, f in grid])


def family_error(tests: int, true: int, shared: float, draws: int, seed: int = 0, n: int = 500) -> float:
    """How often Holm's table of McNemar tests holds any false alarm; the rest of the tests have a real effect.

    Samples flip with chance 0.1; `shared` is the correlation of the flips' directions between the tests.
    """
    rng = np.random.default_rng(seed)
    alarms = 0
    for _ in range(draws):
        flipped = rng.random((tests, n)) < 0.1
        common, own = rng.standard_normal(n), rng.standard_normal((tests, n))
        lean = np.where(np.arange(tests) < true, 0.0, 0.5)[:, None]
        to_worse = math.sqrt(shared) * common + math.sqrt(1 - shared) * own + lean > 0
        worse, total = (flipped & to_worse).sum(1), flipped.sum(1)
        adjusted = holm([mcnemar(int(w), int(t - w)) for w, t in zip(worse, total, strict=True)])
        alarms += any(p <= 0.05 for p in adjusted[:true])
    return alarms / draws


@dataclass(frozen=True)
class World:
    """Trainings whose quality varies, judged on samples whose hardness varies.

    A sample is right where `level + hardness + release + training + own > 0`, each normal: hardness with variance 1.
    """

    rate: float  # mean over all trainings and samples
    n: int
    repeats: int
    training: float  # standard deviation between trainings
    release: float = 0.0  # standard deviation of what a release does to one sample in all its trainings
    own: float = 0.7  # standard deviation of what one training does to one sample

    def draw(self, rng: np.random.Generator, sides: int) -> NDArray[np.bool_]:
        """Outcomes `(sides, repeats, n)` on the same samples."""
        level = norm.ppf(self.rate) * math.sqrt(1 + self.release**2 + self.training**2 + self.own**2)
        hardness = rng.standard_normal(self.n)
        release = self.release * rng.standard_normal((sides, 1, self.n))
        trainings = self.training * rng.standard_normal((sides, self.repeats, 1))
        own = self.own * rng.standard_normal((sides, self.repeats, self.n))
        return np.asarray(level + hardness + release + trainings + own > 0)

    def name(self) -> str:
        spreads = f"training {self.training:g}, release {self.release:g}"
        return f"rate {self.rate:g}, n {self.n}, repeats {self.repeats}, {spreads}"


def repeats_covered(world: World, draws: int, seed: int = 0) -> float:
    """How often `over_repeats` holds the mean over all trainings and samples."""
    rng = np.random.default_rng(seed)
    ends = [interval(k, world.n) for k in range(world.n + 1)]
    held = 0
    for _ in range(draws):
        counts = world.draw(rng, 1)[0].sum(1)
        found = over_repeats([Metric(int(k) / world.n, world.n, *ends[k], "rate") for k in counts])
        held += bool(found.low is not None and found.high is not None and found.low <= world.rate <= found.high)
    return held / draws


@dataclass(frozen=True)
class Alarms:
    """Shares of draws without any true difference."""

    clustered: float  # `p_weights` of `crossed`, over samples alone, is at most 5 %
    regressed: float  # `p` of `crossed`, over trainings and samples, is: what `compare` goes by
    pooled: float  # McNemar's p-value over flips of all repeats
    held: float  # the interval of `crossed` holds 0


def one_training(world: World, draws: int, seed: int = 0) -> float:
    """How often two trainings of one recipe differ by McNemar's test and half a point: their difference is real."""
    rng = np.random.default_rng(seed)
    called = 0
    for _ in range(draws):
        old, new = world.draw(rng, 2)
        lost, gained = int((old & ~new).sum()), int((new & ~old).sum())
        called += mcnemar(lost, gained) <= 0.05 and abs(gained - lost) >= 0.005 * world.n
    return called / draws


@cache
def alarms(world: World, draws: int, seed: int = 0) -> Alarms:
    """Two releases trained alike."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(4)
    for _ in range(draws):
        old, new = world.draw(rng, 2)
        found = crossed(old, new)
        clustered, regressed, held = found.p_weights <= 0.05, found.p <= 0.05, found.low <= 0 <= found.high
        pooled = mcnemar(int((old & ~new).sum()), int((new & ~old).sum())) <= 0.05
        counts += (clustered, regressed, pooled, held)
    return Alarms(*(counts / draws))


def worlds(rates: Iterable[float], spreads: Iterable[float] = (0.0, 0.05, 0.2), release: float = 0.0) -> list[World]:
    return [
        World(rate, n, repeats, training, release)
        for rate in rates
        for n in (100, 1000)
        for repeats in (2, 3, 5)
        for training in spreads
    ]


GRID = np.linspace(0.0, 1.0, 1001)[1:-1]
PAIRED = "rate 0.5 and 0.95, n 100 and 1000, repeats 2-5"
HEAD = "| what | grid | mean % | least % | most % | least at | in 93-97 % |\n|---|---|---|---|---|---|---|"


def exact_table() -> list[str]:
    middle, many = GRID[(GRID >= 0.05) & (GRID <= 0.95)], (100, 150, 200, 300, 500, 1000, 2000)
    everywhere = np.concatenate([[0.0001, 0.0002, 0.0005], GRID, [0.9995, 0.9998, 0.9999]])
    sizes = (50, 100, 200, 500, 1000, 2000)
    paired = ((50, 100, 200), (0.0, 0.001, 0.01, 0.03, 0.1, 0.3), (0.0, 0.001, 0.01, 0.03, 0.1, 0.3))
    rows = [
        ("Wilson", "p 0.05-0.95, n 100-2000", rates_covered(wilson, many, middle)),
        ("Wilson", "p 0.001-0.02 and mirrored, n 50-2000", rates_covered(wilson, sizes, EXTREMES)),
        ("Clopper-Pearson", "p 0.001-0.02 and mirrored, n 50-2000", rates_covered(clopper_pearson, sizes, EXTREMES)),
        ("`interval`", "p 0.0001-0.9999, n 10-99", rates_covered(interval, (10, 20, 50, 75, 99), everywhere)),
        ("`interval`", "p 0.05-0.95, n 100-2000", rates_covered(interval, many, middle)),
        ("`interval`", "p 0.0001-0.9999, n 100-2000", rates_covered(interval, many, everywhere)),
        ("`paired_interval`", "gain, loss 0-0.3, n 50-200", differences_covered(*paired)),
    ]
    return [HEAD, *(f"| {what} | {grid} | {found.cells()} |" for what, grid, found in rows)]


def level_table(draws: int) -> list[str]:
    sizes, flips = (20, 50, 100, 500, 1000), (0.01, 0.02, 0.05, 0.1, 0.3, 1.0)
    lines = ["| test | grid | false alarms: mean % | most % |", "|---|---|---|---|"]
    for side in ("both", "worse"):
        found = mcnemar_levels(sizes, flips, side)
        where = f"flips 0.01-1, n 20-1000, side {side}"
        lines.append(f"| McNemar, exact | {where} | {100 * found.mean:.2f} | {100 * found.most:.2f} |")
    for tests, true, shared in ((20, 20, 0.0), (20, 20, 0.8), (20, 10, 0.0), (5, 5, 0.3)):
        error = 100 * family_error(tests, true, shared, draws)
        where = f"{tests} tests, {true} without effect, correlation {shared:g}"
        lines.append(f"| Holm over McNemar, any false alarm | {where} | {error:.2f} | {error:.2f} |")
    for spread, release in ((0.0, 0.0), (0.0, 0.7), (0.05, 0.0), (0.2, 0.0), (0.2, 0.7)):
        grid = worlds((0.5, 0.95), (spread,), release)
        found = [alarms(world, draws, seed) for seed, world in enumerate(grid)]
        for what, name in (
            ("`crossed`, these weights", "clustered"),
            ("`crossed`, the training: the verdict", "regressed"),
            ("McNemar over pooled flips (not used)", "pooled"),
        ):
            errors = [100 * getattr(one, name) for one in found]
            where = f"{PAIRED}, between trainings {spread:g}, between releases {release:g}"
            lines.append(f"| {what} | {where} | {np.mean(errors):.2f} | {max(errors):.2f} |")
    for spread in (0.0, 0.05, 0.2):
        single = [World(rate, n, 1, spread) for rate in (0.5, 0.95) for n in (100, 1000)]
        errors = [100 * one_training(world, draws, seed) for seed, world in enumerate(single)]
        where = f"rate 0.5 and 0.95, n 100 and 1000, one repeat, between trainings {spread:g}"
        lines.append(
            f"| McNemar and half a point, one training each | {where} | {np.mean(errors):.2f} | {max(errors):.2f} |"
        )
    return lines


def repeats_table(draws: int) -> list[str]:
    lines = ["| interval | grid | mean % | least % | most % | least at | in 93-97 % |", "|---|---|---|---|---|---|---|"]
    for rates in ((0.5, 0.9), (0.98, 0.995)):
        grid = worlds(rates)
        found = Found.over([repeats_covered(w, draws, s) for s, w in enumerate(grid)], [w.name() for w in grid])
        where = f"rate {rates[0]:g} and {rates[1]:g}, n 100 and 1000, repeats 2-5, between trainings 0-0.2"
        lines.append(f"| `over_repeats` | {where} | {found.cells()} |")
    grid = [replace(w, own=0.1) for w in worlds((0.5, 0.98, 0.995), (0.0,))]
    found = Found.over([repeats_covered(w, draws, s) for s, w in enumerate(grid)], [w.name() for w in grid])
    where = "rate 0.5, 0.98 and 0.995, n 100 and 1000, repeats 2-5 that nearly agree (0.1 in place of 0.7)"
    lines.append(f"| `over_repeats` | {where} | {found.cells()} |")
    for release in (0.0, 0.7):
        grid = worlds((0.5, 0.95), (0.0, 0.2), release)
        held = [alarms(w, draws, s).held for s, w in enumerate(grid)]
        where = f"{PAIRED}, between trainings 0 and 0.2, between releases {release:g}"
        lines.append(f"| `crossed` | {where} | {Found.over(held, [w.name() for w in grid]).cells()} |")
    return lines


def page(draws: int) -> str:
    parts = [
        "# How often the statistics are right",
        "Written by `benchmarks/coverage.py`. All intervals ask for 95 %, all tests for 5 %.",
        "## Exact: sums over all outcomes",
        *("\n".join(exact_table()),),
        "## False alarms",
        f"McNemar exactly, the others over {draws} draws each (standard error "
        f"{100 * math.sqrt(0.05 * 0.95 / draws):.1f} points). `crossed` is the test of `compare` over several "
        "trainings: one p-value speaks of these trained models (between trainings 0), the other of the "
        "training; beside it what pooling flips over repeats would do. With one training each, two trainings of one "
        "recipe that differ in truth are called different: the last rows say how often, and why a release deserves "
        "repeats.",
        "\n".join(level_table(draws)),
        "## Several trainings on the same samples",
        f"{draws} draws each. A sample is right where the sum of its hardness (variance 1), what the training adds to "
        "all samples, what the release adds to this sample in all trainings (standard deviations as named), and what "
        "one training adds to one sample (0.7) is above a level. Between trainings 0.05 and 0.2 scatter a rate of 50 % "
        "by 1.6 and 6.4 points.",
        "\n".join(repeats_table(draws)),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000, help="draws of each simulation")
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
