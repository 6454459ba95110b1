"""What the runner adds to the work itself: a grid of cheap cells, on each engine, against playing the same games bare.

    python benchmarks/runner.py            # local engines
    python benchmarks/runner.py --ray      # also a local Ray cluster (pip install "robustsuite[ray]")

Prints Markdown. A figure is the median of interleaved rounds; the marginal cost of a cell is the difference between the
large grid and a small one that trains the same networks, so that imports and trainings do not count.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 10
GRID = """
name: grid
repeats: {repeats}
dataset: {{name: digits, train: 600, test: 100}}
model: {{name: logistic}}
training: {{epochs: 1, lr: 5.0e-3, batch_size: 64}}
threat: {{norm: linf, radius: 0.1, curve_samples: 0}}
attacks:
{attacks}
"""


def suite(folder, attacks):
    """A grid of `repeats x (attacks + 1)` cells; each attack differs from the others by its number of steps."""
    options = (f"{{steps: {steps}, label: pgd-{steps}, follow_up: false}}" for steps in range(1, attacks + 1))
    listed = "\n".join(f"  - pgd: {each}" for each in options)
    path = folder / f"grid-{attacks}.yaml"
    path.write_text(GRID.format(repeats=REPEATS, attacks=listed))
    return path


def wall(path, folder, *options):
    """Seconds of the whole command."""
    command = [sys.executable, "-m", "robustsuite", "run", str(path), "--out", str(folder), "--fresh", "--no-cache"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    subprocess.run([*command, "--quiet", *options], check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def bare(path):
    """Seconds a cell of the same games, played one after the other without the runner."""
    import torch

    from robustsuite.data.catalogue import load
    from robustsuite.runner.plan import plan
    from robustsuite.scenarios import arrange
    from robustsuite.scenarios.play import play
    from robustsuite.scenarios.victim import Victim
    from robustsuite.suite.load import load_suite
    from robustsuite.training.cache import Trainer

    torch.set_num_threads(1)
    loaded = load_suite(path)
    splits = load(loaded.dataset, seed=loaded.seed)
    layout = plan(loaded, "cpu", splits)
    trained = Trainer(0)(layout.resolver.recipe(loaded.defenses[0]), splits.train)
    games = [arrange(c.attack.entry, dict(c.attack.options), c.threat) for c in layout.cells if c.repeat == 0]
    victim = Victim(trained.model, splits.test, train=splits.train, trained=trained)
    started = time.perf_counter()
    for attack, scenario in games:
        play(attack, scenario, victim, seed=0)
    return (time.perf_counter() - started) / len(games)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray", action="store_true")
    asked = parser.parse_args()
    engines = {"local, 1 worker": ("--workers", "1"), "local, 2 workers": ("--workers", "2")}
    if asked.ray:
        engines["ray, 2 workers"] = ("--engine", "ray", "--workers", "2")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        small, large = suite(folder, 1), suite(folder, 19)
        cells = REPEATS * 20 - REPEATS * 2
        seen = {name: [] for name in engines}
        for number in range(asked.rounds):
            for name, options in engines.items():
                few = wall(small, folder / "few", *options)
                many = wall(large, folder / "many", *options)
                seen[name].append((few, many))
                print(f"round {number + 1}: {name}: {few:.2f} s, {many:.2f} s", file=sys.stderr)
        pure = statistics.median(bare(large) for _ in range(asked.rounds))
    print(f"The game alone: {1000 * pure:.1f} ms a cell.\n")
    print("| engine | 20 cells, s | 200 cells, s | a further cell, ms | of it beside the game, ms |")
    print("|---|---|---|---|---|")
    for name, pairs in seen.items():
        few, many = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        marginal = statistics.median((pair[1] - pair[0]) / cells for pair in pairs)
        hands = 1 if name.endswith("1 worker") else 2
        print(f"| {name} | {few:.2f} | {many:.2f} | {1000 * marginal:.1f} | {1000 * (marginal * hands - pure):.1f} |")


if __name__ == "__main__":
    main()
