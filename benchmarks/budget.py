"""Whether the interval that a budget of time ends with keeps its level: the stopping rule replayed over real costs.

Verdicts and passes of every test sample under `cascade` are recorded once for each network and kept. A replay draws
samples from them with replacement, so that the true rate is known, in batches that cost what the recording says:
a fixed part and its passes, so that robust samples are dear. It is stopped by the code that stops a real evaluation.

    python benchmarks/budget.py --write benchmarks/RESULTS.md
    python benchmarks/budget.py --real 30s 2m 10m         # real runs beside it, on a machine with nothing else to do
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

import attacks
import robustsuite as rs
from robustsuite.core.deadline import OutOfTime
from robustsuite.core.intervals import clopper_pearson, interval
from robustsuite.core.metric import Metric
from robustsuite.data.catalogue import DatasetSpec, load
from robustsuite.evaluation.clock import BatchCost, Clock, TimeBudget, looked
from robustsuite.evaluation.looks import looks_at_any_time
from robustsuite.evaluation.record_files import load_samples
from robustsuite.models.build import ModelSpec
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

TITLE = "## Within a budget of time"
RECORDED: Final = 360  # test samples of each network
REPLAYS: Final = 200
SHARES: Final = (0.2, 0.4, 0.8)
EXTENDED: Final = 3
BATCH: Final = 4


class Recording(NamedTuple):
    """What one evaluation of all samples saw of each: passes, and whether it is robust in the end."""

    name: str
    passes: NDArray[np.float64]
    robust: NDArray[np.bool_]

    @property
    def rate(self) -> float:
        return float(self.robust.mean())

    @property
    def seconds(self) -> float:
        """Of all samples, a pass taking one and a batch `BATCH` samples' worth besides."""
        return float(self.passes.sum())


def networks(*, mnist: bool) -> tuple[DatasetSpec, dict[str, Recipe], dict[str, tuple[float, ...]]]:
    """The data, and by name recipes and the radii at which each is attacked."""
    if mnist:
        setting = attacks.images(mnist=True)
        return setting.data, setting.recipes, {"undefended": (0.05, 0.1), "PGD-trained": (0.2, 0.3)}
    net = ModelSpec("mlp")
    settings = Training(epochs=20, schedule="one-cycle", lr=3e-3)
    trained = attacks.hardened(net, settings, 0.15, {"pgd": {"steps": 7, "step_size": 0.25}})
    recipes = {"undefended": Recipe(build=net, training=Training(epochs=15)), "PGD-trained": trained}
    return DatasetSpec(name="digits"), recipes, {"undefended": (0.03, 0.06), "PGD-trained": (0.1, 0.15)}


def recordings(folder: Path, *, mnist: bool) -> Iterator[Recording]:
    """One for each network and radius; what is not kept yet is measured."""
    data, recipes, radii = networks(mnist=mnist)
    splits = load(replace(data, test=RECORDED), seed=0)
    for name, recipe in recipes.items():
        for radius in radii[name]:
            file = folder / f"budget-{data.name}-{name}-{radius}.json"
            if not file.is_file():
                net = attacks.trained(recipe, splits.train, folder / f"budget-{data.name}-{name}")
                report = rs.evaluate(net, splits.test, "cascade", ("linf", radius))
                columns = load_samples(report.folder, report.records[1])
                file.write_text(json.dumps({kept: columns[kept].tolist() for kept in ("passes", "verdict")}))
                print(f"recorded {file.name}: {report.records[1].seconds:.0f} s", file=sys.stderr, flush=True)
            told = json.loads(file.read_text())
            case = f"{data.name}, {name}, linf {radius}"
            yield Recording(case, np.array(told["passes"], float), np.array(told["verdict"], bool))


@dataclass
class Time:
    """That which passes in a replay."""

    now: float = 0.0


class Replayed:
    """Samples that are drawn from a recording, in the place of `Growing`.

    Args:
        of: What is drawn from, with replacement.
        time: Passes as samples are judged.
        draws: Source of the draws.
    """

    failed = False

    def __init__(self, of: Recording, time: Time, draws: np.random.Generator) -> None:
        rows = draws.integers(len(of.passes), size=len(of.passes))
        self.passes, self.robust = of.passes[rows], of.robust[rows]
        self.given, self.n, self._time = len(rows), 0, time
        self._base = BATCH * float(of.passes.mean())
        self.end = math.inf
        self.finished = (0, 0)

    def take_to(self, n: int, *, hurried: bool = False) -> None:  # noqa: ARG002  # as `Growing` has it
        batch = slice(self.n, n)
        left = self.end - self._time.now - self._base
        if self.passes[batch].sum() > left:
            self.finished = self._cut(batch, left)
            self._time.now = self.end + 1e-6
            raise OutOfTime
        self._time.now += self._base + float(self.passes[batch].sum())
        self.n, self.finished = n, (0, 0)

    def _cut(self, batch: slice, left: float) -> tuple[int, int]:
        """Samples of a batch, and robust ones, whose attack had come to its end: all go on side by side."""
        passes, robust = self.passes[batch], self.robust[batch]
        for most in np.sort(passes)[::-1]:
            if np.minimum(passes, most).sum() <= left:
                return int((passes <= most).sum()), int(robust[passes <= most].sum())
        return 0, 0

    def recall(self, n: int) -> bool:
        """They were all judged before, where time is extended."""
        self.n = n
        return True


class Ended(NamedTuple):
    """Where one replay stopped: samples, robust ones, and those besides whose attack was done in the last batch."""

    n: int
    robust: int
    level: float
    finished: tuple[int, int]

    def intervals(self) -> tuple[tuple[float, float], ...]:
        """Ours; the usual one; the usual one with those that were done in a batch that was cut off."""
        n, robust = self.n + self.finished[0], self.robust + self.finished[1]
        return clopper_pearson(self.robust, self.n, self.level), interval(self.robust, self.n), interval(robust, n)


def replay(of: Recording, share: float, draws: np.random.Generator, extended: int = 0) -> list[Ended]:
    """Where it stopped, and where it stopped when it was given twice the time, as often as that is asked for."""
    time = Time()
    samples, plan = Replayed(of, time, draws), looks_at_any_time(len(of.passes))
    ends: list[Ended] = []
    batches: list[BatchCost] = []
    with patch("robustsuite.evaluation.clock.monotonic", lambda: time.now):
        for more in range(extended + 1):
            clock = Clock(TimeBudget(share * of.seconds * 2**more, since=0.0), "")
            samples.end, samples.n, clock.batches = clock.end, 0, batches
            for _ in looked(samples, plan, clock):  # type: ignore[arg-type]  # it has what is asked of it
                pass
            if samples.n > 0:
                level = next(look.level for look in plan if look.n == samples.n)
                robust = int(samples.robust[: samples.n].sum())
                ends.append(Ended(samples.n, robust, level, samples.finished))
    return ends


def row(of: Recording, share: float, replays: int, seed: int) -> Row:
    """What so many replays of one budget came to."""
    draws = np.random.default_rng([seed, round(1000 * share), round(1e6 * of.rate)])
    first, held, always, wide, sizes = 0, np.zeros(3), np.zeros(2), np.zeros(2), []
    for _ in range(replays):
        ends = replay(of, share, draws, EXTENDED)
        if not ends:
            continue
        first += 1
        sizes.append(ends[0].n)
        holds = np.array([[low <= of.rate <= high for low, high in end.intervals()] for end in ends])
        held, always = held + holds[0], always + holds[:, :2].all(0)
        wide += [(high - low) / 2 for low, high in ends[0].intervals()[:2]]
    return Row(
        of.name, of.rate, share, first, float(np.median(sizes)), *(held / first), *(always / first), *(wide / first)
    )


class Row(NamedTuple):
    """One budget of one network: shares of the replays whose interval held the true rate."""

    name: str
    rate: float
    share: float
    replays: int
    judged: float
    ours: float
    naive: float
    finished: float
    ours_extended: float
    naive_extended: float
    ours_width: float
    naive_width: float


def real(folder: Path, budgets: Sequence[str], seeds: int, *, mnist: bool) -> Iterator[str]:
    """Lines of a table of real evaluations of the same samples: when they ended, and whether their interval holds."""
    data, recipes, _ = networks(mnist=mnist)
    splits = load(replace(data, test=RECORDED), seed=0)
    for of in recordings(folder, mnist=mnist):
        _, name, ball = of.name.split(", ")
        net = attacks.trained(recipes[name], splits.train, folder / f"budget-{data.name}-{name}")
        for budget in budgets:
            for seed in range(seeds):
                started = monotonic()
                threat = ("linf", float(ball.split()[1]))
                report = rs.evaluate(net, splits.test, "cascade", threat, seed=seed, budget=budget)
                taken, found = monotonic() - started, report.joined[-1]
                metric = found.metrics.get("robust_accuracy", Metric(math.nan, low=0.0, high=1.0))  # nothing was judged
                held = "yes" if metric.low <= of.rate <= metric.high else "no"
                span = f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"
                judged = found.budget["judged"]
                yield f"| {of.name} | {budget} | {taken:.1f} | {judged} | {span} | {of.rate:.3f} | {held} |"


def section(rows: Sequence[Row], real_rows: Sequence[str] = ()) -> str:
    """The tables, with what stands above them."""
    total = sum(r.replays for r in rows)
    pooled = {name: sum(getattr(r, name) * r.replays for r in rows) / total for name in Row._fields[5:10]}
    lines = [
        TITLE,
        "",
        f"Coverage of the 95 % interval of robust accuracy under `cascade`, over {REPLAYS} replays a row of the "
        f"stopping rule, each of {RECORDED} samples drawn with replacement from recorded verdicts and passes; so a "
        "share of .95 is seen as .95 +- .03. A budget is a share of what all samples cost; a batch costs its passes "
        f"and as much as {BATCH} samples besides. *this*: the interval that an evaluation within a budget tells; "
        "*usual*: the interval of a fixed number of samples at the same place; *finished*: that with the samples "
        "besides whose attack was done in the batch that time cut off, robust or broken. *extended*: the budget was "
        f"doubled {EXTENDED} times, and every interval on the way has to hold.",
        "",
        "| network | robust | budget | judged, median | this | usual | finished | this, extended | usual, extended | "
        "+- this | +- usual |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        shares = " | ".join(f"{value:.3f}" for value in r[5:])
        lines.append(f"| {r.name} | {r.rate:.3f} | {r.share:g} | {r.judged:.0f} | {shares} |")
    shares = " | ".join(f"{value:.3f}" for value in pooled.values())
    lines.append(f"| all {total} replays | | | | {shares} | | |")
    if real_rows:
        head = "| network | budget | ended after, s | judged | robust | of all samples | held |"
        lines += [
            "",
            "Real runs, in Python, on the same samples:",
            "",
            head,
            "|---|---|---|---|---|---|---|",
            *real_rows,
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cache = Path(tempfile.gettempdir()) / "robustsuite-benchmarks"
    parser.add_argument("--models", type=Path, default=cache, help="where trained weights and recordings are kept")
    parser.add_argument("--write", type=Path, help="file whose section is replaced")
    parser.add_argument("--mnist", action="store_true", help="networks of MNIST beside those of the digits")
    parser.add_argument("--real", nargs="*", default=(), metavar="TIME", help="budgets of real runs, such as 30s 2m")
    parser.add_argument("--seeds", type=int, default=1, help="real runs of each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sets = (False, True) if options.mnist else (False,)
    found = [of for mnist in sets for of in recordings(options.models, mnist=mnist)]
    rows = [row(of, share, REPLAYS, 0) for of in found for share in SHARES]
    lines = [line for mnist in sets for line in real(options.models, options.real, options.seeds, mnist=mnist)]
    text = section(rows, lines)
    print(text)
    if options.write:
        write(options.write, text)


def write(path: Path, text: str) -> None:
    """Replace this script's section of the results file, or append it."""
    known = path.read_text() if path.is_file() else "# Measured\n"
    before, _, rest = known.partition(TITLE)
    after = rest.partition("\n## ")
    tail = f"\n## {after[2]}" if after[1] else ""
    path.write_text(before.rstrip() + "\n\n" + text + tail)


if __name__ == "__main__":
    main()
