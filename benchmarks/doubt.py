"""What doubting costs: the sanity checks against the `cascade` evaluation whose verdict they look at.

The networks are those of `attacks.py`, beside a CNN on the embedded digits, one thread; trained once and kept. What an
follow-up attacks spend, where a check raises a flag, is counted apart.

    python benchmarks/doubt.py --samples 1000 --write benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from peers import versions
from torch import nn

import attacks
import robustsuite as rs
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Served
from robustsuite.core.isolation import untouched
from robustsuite.core.samples import Samples
from robustsuite.data.catalogue import DatasetSpec, load
from robustsuite.models.build import ModelSpec
from robustsuite.scenarios import Evasion
from robustsuite.scenarios.evasion.sanity.checks import examine
from robustsuite.scenarios.play import play
from robustsuite.scenarios.victim import Victim
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

TITLE = "## What doubting costs"
TARGET = 0.1


class Row(NamedTuple):
    """One network: passes and processor seconds of `cascade`, of the sanity checks, and of what they started."""

    case: str
    n: int
    robust: float
    passes: tuple[int, int, int]
    seconds: tuple[float, float, float]
    flags: tuple[str, ...]

    def share(self, of: tuple[float, ...]) -> float:
        return of[1] / of[0]


def nets(folder: Path) -> Iterator[tuple[str, nn.Module, Samples, Ball]]:
    """Each network with the test images of its data set."""
    digits = load(DatasetSpec(name="digits"), seed=0)
    plain = Recipe(build=ModelSpec("cnn"), training=Training(epochs=15))
    yield (
        "digits, undefended",
        attacks.trained(plain, digits.train, folder / "digits-cnn"),
        digits.test,
        Ball("linf", 0.2),
    )
    for setting in attacks.settings():
        splits = load(setting.data, seed=0)
        for name, recipe in setting.recipes.items():
            net = attacks.trained(recipe, splits.train, folder / f"{setting.data.name}-{name}")
            yield f"{setting.data.name}, {name}", net, splits.test, Ball("linf", setting.cases[0].radius)


def measure(case: str, net: nn.Module, test: Samples, ball: Ball) -> Row:
    """Play, look, and follow up where a look raises a flag."""
    victim, game, attack = Victim(Served(net), test), Evasion(ball=ball), rs.attack("cascade")
    marks = [time.process_time()]
    found = play(attack, game, victim, seed=0)
    marks.append(time.process_time())
    columns = found.per_sample
    with untouched(net):
        examine(attack, game, victim, columns["robust"], seed=0, passes=columns.get("passes"))
    marks.append(time.process_time())
    judged = game.review(attack, victim, found, seed=0).metrics
    marks.append(time.process_time())
    attacked, looked, both = (end - start for start, end in itertools.pairwise(marks))
    passes = [
        sum(judged.cost.get(f"{of}{kind}", 0) for kind in ("forwards", "backwards"))
        for of in ("", "sanity_", "follow_up_")
    ]
    robust = judged.values["robust_accuracy"].value
    seconds = attacked, looked, max(0.0, both - looked)
    return Row(case, len(test), robust, (passes[0], passes[1], passes[2]), seconds, judged.flags)


def section(rows: list[Row]) -> str:
    text = (
        f"`cascade` and the sanity checks that look at its verdict, in passes through the network (forward and "
        f"backward, of one sample) and processor seconds; {os.cpu_count()}-core "
        f"{platform.machine().replace('_', '-')} CPU, 1 thread; {versions()}. Wanted at n = 1,000: at most "
        f"{TARGET:.0%}. What the checks started, where one raised a flag, stands apart."
    )
    lines = [
        "| network | n | robust | `cascade`: passes; s | checks: passes; s | share: passes; s | started: passes; s | "
        "flags |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{p:,}; {s:.1f}" for p, s in zip(row.passes, row.seconds, strict=True)]
        share = f"{row.share(row.passes):.1%}; {row.share(row.seconds):.1%}"
        told = ", ".join(row.flags)
        lines.append(
            f"| {row.case} | {row.n} | {row.robust:.1%} | {cells[0]} | {cells[1]} | {share} | {cells[2]} | {told} |"
        )
    return "\n".join([TITLE, "", text, "", *lines]) + "\n"


def write(path: Path, text: str) -> None:
    """Replace this script's section of the results file, or append it."""
    known = path.read_text() if path.is_file() else "# Measured\n"
    before, _, rest = known.partition(TITLE)
    after = rest.partition("\n## ")
    path.write_text(before.rstrip() + "\n\n" + text + (f"\n## {after[2]}" if after[1] else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000, help="test images of each data set at most")
    parser.add_argument("--only", nargs="*", default=[""], help="networks whose line holds one of these texts")
    cache = Path(tempfile.gettempdir()) / "robustsuite-benchmarks"
    parser.add_argument("--models", type=Path, default=cache, help="where trained weights are kept")
    parser.add_argument("--write", type=Path, help="file whose section is replaced")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case, net, test, ball in nets(options.models):
        if any(text in case for text in options.only):
            rows.append(measure(case, net, test.take(slice(0, options.samples)), ball))
            print(rows[-1], file=sys.stderr, flush=True)
    text = section(rows)
    print(text)
    if options.write:
        write(options.write, text)


if __name__ == "__main__":
    main()
