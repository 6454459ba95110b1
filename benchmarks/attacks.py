"""Gradient attacks against the peers that are installed: processor seconds, passes and robust accuracy.

Same network, images, radius and steps, one thread, interleaved: each part of the images goes through the floor and
through every library in turn, so that the drift of a busy machine hits all alike. The floor is the same number of
forward and input-gradient passes of the bare network and nothing else. MNIST and CIFAR-10 where ROBUSTSUITE_DATA holds
them, else the embedded digits. Networks are trained once (minutes) and kept.

    python benchmarks/attacks.py --write benchmarks/RESULTS.md

With `--against CHECKOUT` nothing but the attacks of two checkouts is timed, in turn, each in a process of its own.

    python benchmarks/attacks.py --against ../old
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from against import Pair
from peers import BOUNDS, LIBRARIES, Case, Run, attack_of, floor, runs, versions
from torch import Tensor, nn

import robustsuite as rs
from robustsuite.access.meter import Meter
from robustsuite.access.views import make_view
from robustsuite.core.ball import Ball
from robustsuite.core.canonical import digest
from robustsuite.core.deployed import Served
from robustsuite.core.isolation import untouched
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.data.catalogue import DatasetSpec, load
from robustsuite.models.build import ModelSpec
from robustsuite.training.cache import Trainer
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

PARTS = 2
TITLE = "## Fixed-radius gradient attacks"
OURS = ("robustsuite", "robustsuite, fast")


@dataclass(frozen=True)
class Setting:
    """A data set with an undefended and an adversarially trained network, and what is played on them."""

    data: DatasetSpec
    cases: tuple[Case, ...]
    recipes: dict[str, Recipe]
    samples: int
    sorted: bool = False

    def order(self, n: int) -> Tensor:
        """In which order to take `n` test images: any, where they come sorted by class."""
        return torch.randperm(n, generator=torch.Generator().manual_seed(0)) if self.sorted else torch.arange(n)


@dataclass
class Row:
    """What one case on one network came to."""

    data: str
    network: str
    case: Case
    n: int
    floor: float
    needed: float
    seconds: dict[str, float] = field(default_factory=dict)
    standing: dict[str, int] = field(default_factory=dict)

    def ratio(self, name: str) -> float:
        return self.seconds[name] / self.floor

    def peers(self) -> list[str]:
        return [name for name in self.seconds if name not in OURS]

    def fastest(self) -> float:
        return min(self.ratio(name) for name in self.peers())


def hardened(build: ModelSpec, training: Training, radius: float, attack: object) -> Recipe:
    made = rs.defense("adversarial-training", attack=attack, norm="linf", radius=radius, warmup=1)
    return made(Recipe(build=build, training=training))


def images(mnist: bool) -> Setting:
    radius, l2 = (0.3, 2.0) if mnist else (0.15, 1.0)
    cases = (
        Case("FGSM", "linf", radius, 1, kind="fgsm"),
        Case("PGD-40", "linf", radius, 40),
        Case("PGD-40 x 5", "linf", radius, 40, restarts=5, samples=0.5),
        Case("MI-FGSM-10", "linf", radius, 10, kind="mi-fgsm"),
        Case("PGD-40", "l2", l2, 40),
        Case("APGD-100", "linf", radius, 100, kind="apgd", samples=0.5),
    )
    cnn = ModelSpec("cnn")
    settings = Training(epochs=5 if mnist else 20, schedule="one-cycle", lr=3e-3)
    recipes = {
        "undefended": Recipe(build=cnn, training=Training(epochs=3 if mnist else 15)),
        "PGD-trained": hardened(cnn, settings, radius, {"pgd": {"steps": 7, "step_size": 0.25}}),
    }
    data = DatasetSpec(name="mnist", train=12_000, test=1000) if mnist else DatasetSpec(name="digits")
    return Setting(data, cases, recipes, 200)


def photos() -> Setting:
    radius = 8 / 255
    cases = (
        Case("PGD-20", "linf", radius, 20),
        Case("PGD-20 x 5", "linf", radius, 20, restarts=5),
        Case("APGD-50", "linf", radius, 50, kind="apgd"),
    )
    net = ModelSpec("resnet18", options=(("width", 8),))
    settings = Training(epochs=6, schedule="one-cycle", lr=5e-3)
    recipes = {
        "undefended": Recipe(build=net, training=settings),
        "FGSM-RS-trained": hardened(net, settings, radius, "fgsm-rs"),
    }
    return Setting(DatasetSpec(name="cifar10", train=6000, test=1000), cases, recipes, 100, sorted=True)


def settings() -> list[Setting]:
    return [images(True), photos()] if "ROBUSTSUITE_DATA" in os.environ else [images(False)]


def clock(run: Run, net: nn.Module, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Processor seconds and the result; seeds and weight gradients as the library finds them."""
    torch.manual_seed(0)
    np.random.seed(0)
    start = time.process_time()
    moved = run(net, x, y)
    return time.process_time() - start, moved.detach()


def standing(net: nn.Module, moved: Tensor, y: Tensor) -> int:
    with torch.no_grad():
        return int((net(moved).argmax(1) == y).sum())


def needed(case: Case, net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Passes that ours ran until each sample fell or the budget was spent, as a share of the floor's.

    A backward pass counts as two forward passes.
    """
    meter = Meter()
    ball = Ball(case.norm, case.radius, BOUNDS)
    with untouched(net):
        common = {"x": x, "y": y, "ids": torch.arange(len(y)), "ball": ball, "classes": 10, "meter": meter}
        attack_of(case)(make_view("white-box", Served(net), common), Streams(0).child("attack"))
    return (meter.forwards + 2 * meter.backwards) / (3 * case.passes * len(x))


def measure(data: str, network: str, case: Case, net: nn.Module, x: Tensor, y: Tensor) -> Row:
    """Each library's seconds, and how many samples it leaves robust."""
    n = int(case.samples * len(y))
    x, y = x[:n], y[:n]
    row = Row(data, network, case, n, 0.0, needed(case, net, x, y))
    listed = {"floor": floor(case), **runs(case)}
    seconds, left = dict.fromkeys(listed, 0.0), dict.fromkeys(listed, 0)
    for part, labels in zip(x.chunk(PARTS), y.chunk(PARTS), strict=True):
        for name, run in listed.items():
            spent, moved = clock(run, net, part, labels)
            seconds[name] += spent
            left[name] += standing(net, moved, labels)
    row.floor = seconds.pop("floor")
    row.seconds, row.standing = seconds, {name: left[name] for name in seconds}
    return row


def trained(recipe: Recipe, train: Samples, path: Path) -> nn.Module:
    """The recipe's network, kept by its settings; unlike in a run, other code of the suite does not train it again."""
    file = path.with_name(f"{path.name}-{digest([recipe.training_key(), train.digest()])}.pt")
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        fitted = Trainer(0)(recipe, train)
        print(f"{path.name}: {fitted.history[-1]}", file=sys.stderr)
        torch.save(fitted.model.network.state_dict(), file)
    network = recipe.build(train.classes, train.shape, train.bounds)
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.to(memory_format=torch.contiguous_format).eval()  # as torch builds networks


def networks(setting: Setting, folder: Path) -> tuple[dict[str, nn.Module], Tensor, Tensor]:
    """The networks, kept between runs, and test images that each of them gets right."""
    splits = load(setting.data, seed=0)
    nets: dict[str, nn.Module] = {}
    for name, recipe in setting.recipes.items():
        nets[name] = trained(recipe, splits.train, folder / f"{setting.data.name}-{name}")
    order = setting.order(len(splits.test))
    x, y = splits.test.inputs()[order], splits.test.y[order]
    with torch.no_grad():
        right = torch.stack([net(x).argmax(1) == y for net in nets.values()]).all(0)
    return nets, x[right][: setting.samples], y[right][: setting.samples]


def table(rows: list[Row]) -> list[str]:
    names = [name for name in LIBRARIES if any(name in row.seconds for row in rows)]
    lines = [
        "| data, network | attack | n | floor, s | needed | " + " | ".join(names) + " | agrees |",
        "|---|---|---|---|---|" + "---|" * (len(names) + 1),
    ]
    for row in rows:
        cells = [
            f"{row.ratio(name):.2f} ({row.standing[name] / row.n:.3f})" if name in row.seconds else "" for name in names
        ]
        strongest = min((row.standing[name] for name in row.peers()), default=row.n)
        agrees = row.standing["robustsuite"] <= strongest + max(1, row.n // 200)
        label = f"{row.case.name}, {row.case.norm} {row.case.radius:.3g}"
        lines.append(
            f"| {row.data}, {row.network} | {label} | {row.n} | {row.floor:.2f} | {row.needed:.2f} | "
            + " | ".join(cells) + f" | {'yes' if agrees else 'NO'} |"
        )  # fmt: skip
    return lines


def targets(rows: list[Row]) -> list[str]:
    """Each target of speed, what was measured in its worst row, and whether it is met."""
    iterated = [row for row in rows if row.case.kind in ("pgd", "mi-fgsm")]
    robust = [row for row in iterated if row.network != "undefended"]
    plain = [row for row in iterated if row.network == "undefended" and row.case.norm == "linf"]
    single = {(row.data, row.network, row.case.norm): row for row in plain if row.case.restarts == 1}
    pairs = [(row, single[row.data, row.network, row.case.norm]) for row in plain if row.case.restarts > 1]
    many = [many.seconds["robustsuite"] / many.n / (one.seconds["robustsuite"] / one.n) for many, one in pairs]
    climbs = [row for row in rows if row.case.kind == "apgd" and row.network != "undefended"]

    def quicker(row: Row, name: str) -> float:
        return row.fastest() / row.ratio(name)

    found: list[tuple[str, list[float], Callable[[float], bool], str]] = [
        ("robust networks, over the floor", [r.ratio("robustsuite") for r in robust], lambda v: v <= 1, "<= 1"),
        ("robust networks, fast, over the floor", [r.ratio(OURS[1]) for r in robust], lambda v: v <= 0.4, "<= .4"),
        ("undefended, over the passes needed", [r.ratio("robustsuite") / r.needed for r in plain],
         lambda v: v <= 1.15, "<= 1.15"),
        ("undefended, PGD times as fast as the fastest peer",
         [-quicker(r, "robustsuite") for r in plain if r.case.kind == "pgd"], lambda v: v <= -5, ">= 5"),
        ("5 restarts, undefended, over one", many, lambda v: v <= 1.1, "<= 1.1"),
        ("APGD, robust networks, times as fast as the fastest peer", [-quicker(r, "robustsuite") for r in climbs],
         lambda v: v <= -2, ">= 2"),
        ("the same, fast", [-quicker(r, OURS[1]) for r in climbs], lambda v: v <= -2, ">= 2"),
    ]  # fmt: skip
    lines = ["", "| target | wanted | best row | worst row | met |", "|---|---|---|---|---|"]
    for name, values, holds, wanted in found:
        if values:
            met = sum(map(holds, values))
            verdict = "yes" if met == len(values) else f"in {met} of {len(values)} rows" if met else "no"
            lines.append(f"| {name} | {wanted} | {abs(min(values)):.2f} | {abs(max(values)):.2f} | {verdict} |")
    return lines


def section(rows: list[Row]) -> str:
    machine = f"{os.cpu_count()}-core {platform.machine().replace('_', '-')} CPU, 1 thread"
    text = (
        f"Test images that both networks of a data set get right; networks as torch builds them, neither channels-last "
        f"nor folded; {machine}; Python {platform.python_version()}, {versions()}. Processor seconds over the floor ("
        f"the same number of forward and input-gradient passes of the bare network), every library in turn on each of "
        f"{PARTS} parts of the images; in brackets the robust accuracy. *needed* is the share of those passes that "
        f"robustsuite ran before each sample was broken or the budget was spent; *fast* is `precision: fast`. A "
        f"single run starts at the input, restarts and APGD at random points. *agrees*: ours leaves at most one sample "
        f"in 200 (at least one) more robust than the strongest peer."
    )
    return "\n".join([TITLE, "", text, "", *table(rows), *targets(rows)]) + "\n"


def write(path: Path, text: str) -> None:
    """Replace this script's section of the results file, or append it."""
    known = path.read_text() if path.is_file() else "# Measured\n"
    before, _, rest = known.partition(TITLE)
    after = rest.partition("\n## ")
    tail = f"\n## {after[2]}" if after[1] else ""
    path.write_text(before.rstrip() + "\n\n" + text + tail)


def compare(options: argparse.Namespace) -> None:
    """Print the seconds of this checkout over those of another, case by case."""
    with Pair(options.against) as pair:
        print("| data, network | attack | n | old, s | new, s | new / old |\n|---|---|---|---|---|---|")
        for setting in settings():
            nets, x, y = networks(setting, options.models)
            x, y = x[: options.samples], y[: options.samples]
            for name, net in nets.items():
                pair.show(setting.recipes[name].build, net.state_dict(), x, y)
                for case in setting.cases:
                    place = f"{setting.data.name} {name} {case.name} {case.norm}"
                    if options.only in place:
                        n = int(case.samples * len(y))
                        measured = f"{case.name}, {case.norm} | {n} | {pair.measure(case, n)}"
                        print(f"| {setting.data.name}, {name} | {measured} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, help="images of each data set; by default 200, of CIFAR-10 100")
    parser.add_argument("--only", default="", help="play cases whose line holds this text")
    cache = Path(tempfile.gettempdir()) / "robustsuite-benchmarks"
    parser.add_argument("--models", type=Path, default=cache, help="where trained weights are kept")
    parser.add_argument("--write", type=Path, help="file whose section is replaced")
    parser.add_argument("--against", type=Path, help="another checkout, whose attacks are timed in turn with these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.against:
        compare(options)
        return
    rows = []
    for setting in settings():
        nets, x, y = networks(setting, options.models)
        x, y = x[: options.samples], y[: options.samples]
        for name, net in nets.items():
            for case in setting.cases:
                if options.only not in f"{setting.data.name} {name} {case.name} {case.norm}":
                    continue
                rows.append(measure(setting.data.name, name, case, net, x, y))
                print(rows[-1], file=sys.stderr, flush=True)
    text = section(rows)
    print(text)
    if options.write:
        write(options.write, text)


if __name__ == "__main__":
    main()
