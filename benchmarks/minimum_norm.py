"""Minimum-norm attacks against the peers that are installed: distances, samples left robust, passes and seconds.

Same undefended networks and images, one thread, interleaved: each part of the images goes through every library in
turn. The networks are those of `attacks.py`, trained once and kept.

    python benchmarks/minimum_norm.py --write benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ensembles import Counting
from peers import BOUNDS, versions
from torch import Tensor, nn

import attacks
import robustsuite as rs
from robustsuite.access.engine import TRIAL, FastPasses
from robustsuite.access.meter import Meter
from robustsuite.access.views import make_view
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Served
from robustsuite.core.isolation import untouched
from robustsuite.core.streams import Streams

TITLE = "## Minimum-norm attacks"
OURS = "robustsuite"
PARTS = 2
ORDER = {"linf": math.inf, "l2": 2, "l1": 1}
# What the peers' Carlini-Wagner is given, because their defaults do not converge, or not within minutes.
CONVERGED = {"mnist": (0.1, 200, 6), "cifar10": (0.01, 200, 5), "digits": (0.1, 200, 6)}
Run = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One attack in one norm; how many images of each data set."""

    attack: str
    norm: str = "l2"
    mnist: int = 100
    cifar: int = 64


CASES = (
    Case("deepfool"),
    Case("deepfool", "linf"),
    Case("ddn"),
    *(Case("fmn", norm) for norm in ORDER),
    Case("fab", "linf", 20, 10),
    Case("fab", "l2", 20, 10),
    Case("carlini-wagner", "l2", 50, 32),
)


@dataclass
class Told:
    """What one library did in one case."""

    distances: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    forwards: int = 0
    backwards: int = 0

    def distance(self) -> Tensor:
        """Of every sample; infinite where it is robust."""
        return torch.cat(self.distances)


@dataclass
class Row:
    """What each library did in one case on one data set."""

    data: str
    case: Case
    told: dict[str, Told]

    def line(self) -> str:
        return f"{self.data}, {self.case.attack} {self.case.norm}"

    def mean(self, name: str) -> float:
        """Over the samples that were broken by every library that left fewer than half robust."""
        all_of = torch.stack([t.distance() for t in self.told.values()])
        fell = all_of[all_of.isinf().double().mean(1) < 0.5].isfinite().all(0)
        return float(self.told[name].distance()[fell].mean())

    def left_robust(self, name: str) -> float:
        return float(self.told[name].distance().isinf().double().mean())

    def nearest(self) -> str:
        """The peer with the least mean distance, among those that leave the fewest robust."""
        return min((n for n in self.told if n != OURS), key=lambda n: (self.left_robust(n), self.mean(n)))


def ours(case: Case, net: nn.Module, x: Tensor, y: Tensor, told: Told) -> Tensor:
    ball = Ball(case.norm, 1.0, BOUNDS).everywhere(tuple(x.shape[1:]), BOUNDS)
    meter = Meter()
    with untouched(net):
        common = {"x": x, "y": y, "ids": torch.arange(len(y)), "ball": ball, "classes": 10, "meter": meter}
        view = make_view("white-box", Served(net), {**common, "minimum_norm": True}, engine=FastPasses(net, x[:TRIAL]))
        moved: Tensor = rs.attack(case.attack)(view, Streams(0).child("attack"))
    told.forwards += meter.forwards
    told.backwards += meter.backwards
    return moved


def adv_lib(case: Case, data: str) -> Run | None:
    from adv_lib import attacks as peer

    rate, steps, rounds = CONVERGED[data]
    order = float(ORDER[case.norm])
    wagner = {"learning_rate": rate, "max_iterations": steps, "binary_search_steps": rounds, "initial_const": 1.0}
    made: dict[str, Run] = {
        "deepfool": partial(peer.df, steps=50, norm=order),
        "ddn": partial(peer.ddn, steps=100, levels=None),
        "fmn": partial(peer.fmn, norm=order, steps=100),
        "carlini-wagner": partial(peer.carlini_wagner_l2, **wagner),
    }
    return made.get(case.attack)


def foolbox(case: Case, data: str) -> Run | None:
    from foolbox import PyTorchModel
    from foolbox import attacks as peer

    rate, steps, rounds = CONVERGED[data]
    wagner = {"stepsize": rate, "steps": steps, "binary_search_steps": rounds, "initial_const": 1.0}
    norm = case.norm.capitalize()
    makers: dict[str, Callable[[], Any]] = {
        "deepfool": lambda: getattr(peer, f"{norm}DeepFoolAttack")(steps=50),
        "ddn": lambda: peer.DDNAttack(steps=100),
        "fmn": lambda: getattr(peer, f"{norm.replace('inf', 'Inf')}FMNAttack")(steps=100),
        "carlini-wagner": lambda: peer.L2CarliniWagnerAttack(**wagner),
    }
    if case.attack not in makers:
        return None
    attack = makers[case.attack]()
    return lambda net, x, y: attack(PyTorchModel(net, bounds=BOUNDS, device="cpu"), x, y, epsilons=None)[1]


def autoattack(case: Case, _: str) -> Run | None:
    """AutoAttack's own FAB, towards each of 9 classes; the nearest of what it finds."""
    if case.attack != "fab":
        return None
    from pyautoattack.fab_pt import FABAttack_PT

    def run(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack = FABAttack_PT(net, norm=case.norm.capitalize(), n_iter=100, targeted=True, device="cpu")
        ball, best = Ball(case.norm, 1.0), x.clone()
        least = torch.full((len(x),), math.inf, dtype=torch.float64)
        for target in range(2, 11):
            attack.target_class = target
            moved = attack.attack_single_run(x, y, is_targeted=True)
            distance = ball.distance(moved, x)
            nearer = (distance > 0) & (distance < least)
            best[nearer], least[nearer] = moved[nearer], distance[nearer]
        return best

    return run


def torchattacks(case: Case, _: str) -> Run | None:
    if case.attack != "fab":
        return None
    import torchattacks as peer

    options = {"norm": case.norm.capitalize(), "eps": 1e3, "steps": 100, "n_restarts": 1}
    return lambda net, x, y: peer.FAB(net, **options)(x, y)


PEERS = {"adv-lib": adv_lib, "Foolbox": foolbox, "AutoAttack": autoattack, "torchattacks": torchattacks}
MODULES = {"adv-lib": "adv_lib", "Foolbox": "foolbox", "AutoAttack": "pyautoattack", "torchattacks": "torchattacks"}


def counted(run: Run, net: nn.Module, x: Tensor, y: Tensor, told: Told) -> Tensor:
    counting = Counting(net).eval()
    moved = run(counting, x, y)
    told.forwards += counting.forwards
    told.backwards += counting.backwards
    return moved


def measure(data: str, case: Case, net: nn.Module, x: Tensor, y: Tensor) -> Row:
    runs: dict[str, Callable[[Tensor, Tensor, Told], Tensor]] = {OURS: partial(ours, case, net)}
    for name, make in PEERS.items():
        run = make(case, data) if importlib.util.find_spec(MODULES[name]) else None
        if run is not None:
            runs[name] = partial(counted, run, net)
    row = Row(data, case, {name: Told() for name in runs})
    ball = Ball(case.norm, 1.0)
    for part, labels in zip(x.chunk(PARTS), y.chunk(PARTS), strict=True):
        for name, play in runs.items():
            torch.manual_seed(0)
            start = time.process_time()
            moved = play(part, labels, row.told[name]).detach()
            row.told[name].seconds += time.process_time() - start
            with torch.no_grad():
                stands = net(moved).argmax(1) == labels
            row.told[name].distances.append(ball.distance(moved, part).masked_fill(stands, math.inf))
    return row


def table(rows: list[Row]) -> list[str]:
    lines = [
        "| data | attack | n | library | median | mean | robust | passes | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for name, told in row.told.items():
            n = len(told.distance())
            median = float(told.distance().median())
            lines.append(
                f"| {row.data} | {row.case.attack} {row.case.norm} | {n} | {name} | {median:.4g} | "
                f"{row.mean(name):.4g} | {row.left_robust(name):.2f} | {told.forwards / n:.0f} + "
                f"{told.backwards / n:.0f} | {told.seconds:.1f} |"
            )
    return lines


def verdicts(row: Row) -> list[str]:
    """The lines of the targets that this row is about."""
    mine, peer = row.told[OURS], row.nearest()
    wagner = row.case.attack == "carlini-wagner"
    timed = "adv-lib" if "adv-lib" in row.told else peer
    slack = 1.01 if wagner else 1.0
    far, quick = row.mean(OURS) / row.mean(peer if wagner else timed), mine.seconds / row.told[timed].seconds
    told = [
        (f"mean distance over {peer if wagner else timed}'s, <= {slack:g}", f"{far:.3f}", far <= slack),
        (f"seconds over {timed}'s, <= 1", f"{quick:.2f}", quick <= 1),
        ("share left robust, 0", f"{row.left_robust(OURS):.2f}", row.left_robust(OURS) == 0),
    ]
    return [f"| {row.line()} | {what} | {value} | {'yes' if met else '**no**'} |" for what, value, met in told]


def section(rows: list[Row]) -> str:
    settings = "; ".join(
        f"{data}: learning rate {rate:g}, {steps} steps, {rounds} constants from 1 on"
        for data, (rate, steps, rounds) in CONVERGED.items()
        if any(row.data == data for row in rows)
    )
    text = (
        f"Undefended networks, test images that the networks of `attacks.py` get right; {os.cpu_count()}-core "
        f"{platform.machine().replace('_', '-')} CPU, 1 thread, {PARTS} interleaved parts; {versions()}. Passes are "
        f"forward + backward for each image; the median counts samples that stand as infinitely far, the mean is over "
        f"the samples that every library broke (but for libraries that left half of them robust). Ours ran with its "
        f"defaults. The peers' DeepFool took 50 steps, DDN, FMN and FAB 100; AutoAttack's FAB ran towards each of 9 "
        f"classes, torchattacks' untargeted. Their Carlini-Wagner ran with settings that converge ({settings}): their "
        f"defaults do not, or need minutes. Left out for their time: ART, and DeepFool of torchattacks."
    )
    lines = [line for row in rows if len(row.told) > 1 for line in verdicts(row)]
    targets = ["", "| case | target | measured | met |", "|---|---|---|---|", *lines] if lines else []
    return "\n".join([TITLE, "", text, "", *table(rows), *targets]) + "\n"


def write(path: Path, text: str) -> None:
    """Replace this script's section of the results file, or append it."""
    known = path.read_text() if path.is_file() else "# Measured\n"
    before, _, rest = known.partition(TITLE)
    after = rest.partition("\n## ")
    path.write_text(before.rstrip() + "\n\n" + text + (f"\n## {after[2]}" if after[1] else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="play cases whose line holds this text")
    cache = Path(tempfile.gettempdir()) / "robustsuite-benchmarks"
    parser.add_argument("--models", type=Path, default=cache, help="where trained weights are kept")
    parser.add_argument("--write", type=Path, help="file whose section is replaced")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for setting in attacks.settings():
        nets, x, y = attacks.networks(setting, options.models)
        net, data = nets["undefended"].requires_grad_(False), setting.data.name
        for case in CASES:
            if options.only not in f"{data}, {case.attack} {case.norm}":
                continue
            n = case.cifar if data == "cifar10" else case.mnist
            rows.append(measure(data, case, net, x[:n], y[:n]))
            print("\n".join(table(rows[-1:])[2:]), file=sys.stderr, flush=True)
    text = section(rows)
    print(text)
    if options.write:
        write(options.write, text)


if __name__ == "__main__":
    main()
