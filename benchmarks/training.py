"""The trainer: seconds to accuracy by recipe, and what it adds to the steps themselves. Processor seconds, one thread.

    python benchmarks/training.py loops                             # seconds: against loops by hand, on each data set
    python benchmarks/training.py accuracy --plan mnist-one-epoch   # minutes: one of the plans of `recipes.py`
    python benchmarks/training.py data                              # what reading a data set costs, each time

Prints Markdown; `accuracy` prints each epoch as it ends too. MNIST and CIFAR-10 below `$ROBUSTSUITE_DATA`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.nn.functional as F
from recipes import PLANS, Watched, accuracy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from robustsuite.core.samples import Samples
from robustsuite.data.catalogue import DatasetSpec, load
from robustsuite.models.build import ModelSpec
from robustsuite.training import Recipe, Training
from robustsuite.training.fit import fit, make_network

SEEDS: Final = (0, 1, 2)


@dataclass(frozen=True)
class Loop:
    """A training that is timed in several ways."""

    data: str
    train: int
    model: str
    options: tuple[tuple[str, object], ...]
    epochs: int
    batch_size: int

    def recipe(self) -> Recipe:
        """Adam without validation, as the loops by hand."""
        training = Training(epochs=self.epochs, batch_size=self.batch_size, validation=0.0)
        return Recipe(build=ModelSpec(self.model, options=self.options), training=training)


LOOPS: Final = (
    Loop("digits", 857, "logistic", (), 20, 32),
    Loop("digits", 857, "mlp", (("hidden", (32,)),), 20, 32),
    Loop("mnist", 6000, "mlp", (), 2, 128),
    Loop("mnist", 6000, "cnn", (), 1, 128),
)


def ours(loop: Loop, samples: Samples) -> None:
    fit(loop.recipe(), samples, 0)


def tight(loop: Loop, samples: Samples) -> None:
    """Permute, index, step."""
    network = make_network(loop.recipe(), samples, 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(loop.epochs):
        for rows in torch.randperm(len(samples)).split(loop.batch_size):
            _step(network, optimizer, samples.inputs(rows), samples.y[rows])


def loader(loop: Loop, samples: Samples) -> None:
    """As tutorials have it: a `DataLoader` that collates samples one by one, in this process."""
    network = make_network(loop.recipe(), samples, 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    batches = DataLoader(TensorDataset(samples.inputs(), samples.y), batch_size=loop.batch_size, shuffle=True)
    for _ in range(loop.epochs):
        for x, y in batches:
            _step(network, optimizer, x, y)


def steps(loop: Loop, samples: Samples) -> None:
    """As many steps on the same batch: no data to look for."""
    network = make_network(loop.recipe(), samples, 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x, y = samples.inputs(slice(0, loop.batch_size)), samples.y[: loop.batch_size]
    whole, rest = divmod(len(samples), loop.batch_size)
    for _ in range(loop.epochs):
        for _ in range(whole):
            _step(network, optimizer, x, y)
        if rest:
            _step(network, optimizer, x[:rest], y[:rest])


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(network(x), y).backward()
    optimizer.step()


WAYS: Final[dict[str, Callable[[Loop, Samples], None]]] = {
    "robustsuite": ours, "DataLoader": loader, "tight loop": tight, "steps alone": steps,
}  # fmt: skip


def loops(rounds: int) -> list[str]:
    """Medians of interleaved rounds; the first round warms up and is left out."""
    lines = [
        "| training | steps | " + " | ".join(f"{name}, s" for name in WAYS)
        + " | over DataLoader | over tight | over steps |",
        "|---|---|" + "---|" * (len(WAYS) + 3),
    ]  # fmt: skip
    for loop in LOOPS:
        samples = load(DatasetSpec(name=loop.data, train=loop.train), seed=0).train
        seen: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(rounds + 1):
            for name, run in WAYS.items():
                started = time.process_time()
                run(loop, samples)
                seen[name].append(time.process_time() - started)
        spent = {name: statistics.median(times[1:]) for name, times in seen.items()}
        count = loop.epochs * -(-len(samples) // loop.batch_size)
        mine = spent.pop("robustsuite")
        figures = " | ".join(f"{value:.3f}" for value in (mine, *spent.values()))
        ratios = " | ".join(f"{mine / value:.2f}" for value in spent.values())
        lines.append(f"| {loop.data}, {loop.model}, {loop.train} x {loop.epochs} | {count} | {figures} | {ratios} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def curves(names: list[str], seeds: tuple[int, ...], *, plain: bool) -> list[str]:
    """Each plan under each seed: what it came to, and when it passed its target."""
    lines = [
        "| plan | seed | trained on | epochs | processor s | test accuracy | target | passed after, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        plan = PLANS[name]
        splits = load(DatasetSpec(name=plan.data, **whole(plan.data)), seed=0)
        recipe = plan.recipe(plain=plain)
        for seed in seeds:
            rows: list[dict[str, float]] = []

            def tell(row: dict[str, float], rows: list[dict[str, float]] = rows, name: str = name) -> None:
                rows.append(row)
                print(f"{name}: {row}", file=sys.stderr, flush=True)

            watched = Watched(test=splits.test, tell=tell, clock=time.process_time)
            started = time.process_time()
            fitted = fit(replace(recipe, objective=watched), splits.train, seed)
            spent = time.process_time() - started - watched.outside
            tell({"epoch": recipe.training.epochs, "seconds": spent, "accuracy": accuracy(fitted.network, splits.test)})
            passed = next((f"{row['seconds']:.0f}" for row in rows if row["accuracy"] >= plan.target), "never")
            lines.append(
                f"| {name}{', plain' if plain else ''} | {seed} | {len(splits.train)} | {recipe.training.epochs} | "
                f"{spent:.0f} | {100 * rows[-1]['accuracy']:.2f} | {100 * plan.target:.1f} | {passed} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def whole(data: str) -> dict[str, int]:
    """Sizes by which all training samples are trained on: nothing else needs any here."""
    counts = {"mnist": 60_000, "cifar10": 50_000}
    return {"train": counts[data], "trusted": 0, "calibration": 0, "population": 0}


def reading(rounds: int) -> list[str]:
    """Processor seconds of loading a data set, again and again in one process."""
    lines = ["| data | samples | first, s | again, s |", "|---|---|---|---|"]
    for name in ("digits", "mnist", "cifar10"):
        spent = []
        for _ in range(rounds):
            started = time.process_time()
            splits = load(DatasetSpec(name=name), seed=0)
            spent.append(time.process_time() - started)
        again = f"{statistics.median(spent[1:]):.2f}" if len(spent) > 1 else ""
        lines.append(f"| {name} | {len(splits.train)} + {len(splits.test)} | {spent[0]:.2f} | {again} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("loops", "accuracy", "data"))
    parser.add_argument(
        "--plan", action="append", choices=sorted(PLANS), help="of `accuracy`; by default those of a CPU"
    )
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many seeds each plan is trained under")
    parser.add_argument("--plain", action="store_true", help="without augmentation, averaging and Nesterov momentum")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "loops":
        lines = loops(options.rounds)
    elif options.what == "data":
        lines = reading(options.rounds)
    else:
        names = options.plan or [name for name in PLANS if not name.endswith("-gpu")]
        lines = curves(names, tuple(range(options.seeds)), plain=options.plain)
    machine = f"{os.cpu_count()}-core {platform.machine()} CPU, 1 thread, torch {torch.__version__}"
    print("\n".join([f"{machine}; processor seconds.", "", *lines]))


if __name__ == "__main__":
    main()
