"""Attack power on the gauntlet: of adversarial examples that were planted, what each attack and evaluation finds.

Other than in a run, as many are planted as are asked for, whatever looking for them takes.

    python benchmarks/power.py --write benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from peers import versions
from torch import Tensor

import robustsuite as rs
from robustsuite.core.intervals import rate
from robustsuite.core.metric import Metric, Metrics
from robustsuite.core.metrics import FOLLOWED_UP, POWER
from robustsuite.core.streams import Streams
from robustsuite.data.catalogue import load
from robustsuite.models.output_kind import as_logits
from robustsuite.scenarios import Evasion
from robustsuite.scenarios.evasion.sanity import power
from robustsuite.scenarios.play import play
from robustsuite.scenarios.victim import Victim
from robustsuite.storage.store import Store
from robustsuite.suite.load import load_suite
from robustsuite.suite.recipes import make_recipe
from robustsuite.training.cache import Trainer

TITLE = "## Attack power"
WEAK = {"steps": 20}  # of the naive attack of the suite


class Row(NamedTuple):
    """One defence: what `cascade` and its follow-up attacks leave robust, and what each finds of what is planted."""

    defense: str
    robust: Metric
    naive: Metric
    cascade: Metric
    whole: Metric
    random: float
    flags: tuple[str, ...]


def victims(name: str, samples: int, only: list[str], kept: Path) -> Iterator[tuple[str, Victim, Evasion]]:
    """Every defence of a suite, trained, and the game of its threat."""
    suite = load_suite(name)
    splits = load(suite.dataset, seed=suite.seed)
    trainer = Trainer(suite.seed, stores=(Store(kept),), part=splits.part)
    known = {"train": splits.train, "trainer": trainer, "part": splits.part, "seed": suite.seed}
    for use in suite.defenses:
        if only and use.label not in only:
            continue
        recipe = make_recipe(suite, use)
        trained = trainer(recipe, splits.train)
        model = as_logits(trained.model, splits.test, "cpu")
        victim = Victim(model, splits.test.take(slice(0, samples)), recipe=recipe, trained=trained, **known)
        yield use.label, victim, Evasion(ball=suite.threat.ball() or rs.Ball("linf", 0.1))


def measure(label: str, victim: Victim, game: Evasion, most: int) -> Row:
    """Evaluate, plant, and look for what was planted."""
    power._affordable = lambda *_: most
    attack = rs.attack("cascade")
    judged: Metrics = game.review(attack, victim, play(attack, game, victim, seed=0), seed=0).metrics
    random = victim.model.random or not victim.clean.deterministic
    planted = power.plant(victim, game, most, Streams(0).child("planted"), draws=11 if random else 1)
    none = rate(torch.zeros(0), "")
    if planted is None:
        return Row(label, judged.values["robust_accuracy" + FOLLOWED_UP], none, none, none, float("nan"), judged.flags)
    columns = play(rs.attack("pgd", **WEAK), game, planted.victim, seed=0).per_sample
    found: Tensor = ~columns["robust"][columns["clean_correct"]]
    powers = [judged.values.get(name, none) for name in (POWER, POWER + FOLLOWED_UP)]
    share = float(planted.random.float().mean())
    return Row(label, judged.values["robust_accuracy" + FOLLOWED_UP], rate(found, ""), *powers, share, judged.flags)


def percent(metric: Metric) -> str:
    """A rate in percent with its interval; empty where it was not measured."""
    if metric.low is None or metric.high is None:
        return ""
    return f"{100 * metric.value:.0f} [{100 * metric.low:.0f}, {100 * metric.high:.0f}]"


def section(rows: list[Row], samples: int) -> str:
    text = (
        f"The defences of `gauntlet` on {samples} test samples; {os.cpu_count()}-core "
        f"{platform.machine().replace('_', '-')} CPU, 1 thread; {versions()}. Planted adversarial examples that are "
        f"found, in percent, with the 95 % interval: by `pgd` (20 steps) and by `cascade` alone, and by `cascade` with "
        f"its follow-up attacks, which is the power of the verdict. Random: examples that ten random points on the "
        f"surface of the ball find."
    )
    heads = ("defence", "robust %, verdict", "planted", "random %", "`pgd`", "`cascade`", "verdict", "flags")
    lines = [
        f"| {row.defense} | {100 * row.robust.value:.1f} | {row.whole.n} | {100 * row.random:.0f} "
        f"| {percent(row.naive)} | {percent(row.cascade)} | {percent(row.whole)} | {', '.join(row.flags)} |"
        for row in rows
    ]
    head = "| " + " | ".join(heads) + " |"
    return "\n".join([TITLE, "", text, "", head, "|" + "---|" * len(heads), *lines]) + "\n"


def write(path: Path, text: str) -> None:
    """Replace this script's section of the results file, or append it."""
    known = path.read_text() if path.is_file() else "# Measured\n"
    before, _, rest = known.partition(TITLE)
    after = rest.partition("\n## ")
    path.write_text(before.rstrip() + "\n\n" + text + (f"\n## {after[2]}" if after[1] else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="gauntlet")
    parser.add_argument("--samples", type=int, default=100, help="test samples that are evaluated")
    parser.add_argument("--planted", type=int, default=32, help="examples that are planted")
    parser.add_argument("--only", nargs="*", default=[], help="defences by their labels; by default all")
    cache = Path(tempfile.gettempdir()) / "robustsuite-benchmarks"
    parser.add_argument("--models", type=Path, default=cache, help="folder of a run, in which trained weights are kept")
    parser.add_argument("--write", type=Path, help="file whose section is replaced")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for label, victim, game in victims(options.suite, options.samples, options.only, options.models):
        rows.append(measure(label, victim, game, options.planted))
        print(rows[-1], file=sys.stderr, flush=True)
    text = section(rows, options.samples)
    print(text)
    if options.write:
        write(options.write, text)


if __name__ == "__main__":
    main()
