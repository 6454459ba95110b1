"""`cascade` against AutoAttack (ours and its own code), MALT and PMA+: verdicts, passes and processor seconds.

Same networks, images and radii, one thread; Square beside them. The networks are those of `attacks.py`, some more that
were trained fast, and those of `many_classes.py`, trained once and kept.
Verdicts are kept beside them in blocks of 200 images, because they take hours; delete them to measure again.

    python benchmarks/ensembles.py --long "cifar10, FGSM-RS-trained" --write benchmarks/RESULTS.md
    python benchmarks/ensembles.py --many --write benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import many_classes
import torch
from peers import BOUNDS, versions
from published import Malt, PMAPlus
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
from robustsuite.data.catalogue import load
from robustsuite.models.build import ModelSpec
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

TITLE = "## Ensembles and Square"
MANY = "## Ensembles on many classes"
OWN_CODE = "AutoAttack's own code"
ENSEMBLES = ("cascade", "autoattack", "MALT", "PMA+", OWN_CODE)
PUBLISHED = {"MALT": Malt, "PMA+": PMAPlus}
QUERIES = 1000
SAMPLES = 200
LONG = 1000
WIDE = 24  # images of the network of ordinary width, and how many it learns from
WIDE_TRAIN = 2000
WIDE_RADIUS = 4 / 255
Told = tuple[Tensor, int, int]


class Case(NamedTuple):
    """A network and the ball in which it is attacked, on images that it gets right."""

    setting: attacks.Setting
    network: str
    recipe: Recipe
    ball: Ball
    train: int | None = None  # images that the network learns from, where not those of the setting
    n: int = SAMPLES

    @property
    def data(self) -> str:
        return self.setting.data.name

    @property
    def name(self) -> str:
        return f"{self.data}, {self.network}"

    def given(self, folder: Path, n: int) -> tuple[nn.Module, Tensor, Tensor]:
        """The network, and the first test images that it gets right."""
        data = self.setting.data
        splits = load(replace(data, test=4 * LONG), seed=0)
        path = folder / f"{data.name}-{self.network}"
        learnt = load(replace(data, train=self.train or data.train), seed=0).train
        net = attacks.trained(self.recipe, learnt, path).requires_grad_(False)
        order = self.setting.order(len(splits.test))
        x, y = splits.test.inputs()[order], splits.test.y[order]
        with torch.no_grad():
            right = torch.cat([net(part).argmax(1) for part in x.split(500)]) == y
        return net, x[right][:n], y[right][:n]


@dataclass
class Row:
    """What each library left robust in one case, at what cost."""

    case: str
    n: int
    standing: dict[str, Tensor] = field(default_factory=dict)
    passes: dict[str, tuple[int, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def left(self, name: str) -> int:
        return int(self.standing[name].sum())

    def each(self, name: str) -> float:
        """Passes for each sample that stands in the end."""
        return sum(self.passes[name]) / max(1, self.left(name))


def ours(name: str, net: nn.Module, x: Tensor, y: Tensor, ball: Ball, **options: int) -> Told:
    access = "score-based" if name == "square" else "white-box"
    meter = Meter()
    with untouched(net):
        with torch.no_grad():
            classes = net(x[:1]).shape[1]
        common = {"x": x, "y": y, "ids": torch.arange(len(y)), "ball": ball, "classes": classes, "meter": meter}
        view = make_view(access, Served(net), common, engine=FastPasses(net, x[:TRIAL]))
        attack = PUBLISHED[name]() if name in PUBLISHED else rs.attack(name, **options)
        moved = attack(view, Streams(0).child("attack"))
    return moved, meter.forwards, meter.backwards


class Counting(nn.Module):
    """A network that counts the samples of its passes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.forwards, self.backwards = inner, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        logits = self.inner(x)
        if logits.requires_grad:
            logits.register_hook(lambda _: setattr(self, "backwards", self.backwards + len(x)))
        return logits


def reference(net: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Told:
    from pyautoattack.autoattack import AutoAttack

    counting = Counting(net).eval()
    attack = AutoAttack(counting, eps=ball.radius, norm=ball.norm.capitalize(), seed=0, version="standard")
    moved, _ = attack.run_standard_evaluation(x, y, batch_size=len(x))
    return moved, counting.forwards, counting.backwards


def their_square(net: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Told:
    import torchattacks

    counting = Counting(net).eval()
    options = {"norm": ball.norm.capitalize(), "eps": ball.radius, "n_queries": QUERIES, "n_restarts": 1}
    moved = torchattacks.Square(counting, resc_schedule=True, **options)(x, y)
    return moved, counting.forwards, counting.backwards


def measure(case: Case | many_classes.Many, n: int, runs: dict[str, Callable[..., Told]], folder: Path) -> Row:
    """Each run on each block of images, or what was kept of it."""
    row = Row(case.name, n)
    net, x, y = case.given(folder, n)
    for name, run in runs.items():
        blocks = [
            block(folder / "verdicts" / f"{case.name}, {name}, {k}.pt".replace(" ", "_"), run, net, *part, case.ball)
            for k, part in enumerate(zip(x.split(SAMPLES), y.split(SAMPLES), strict=True))
        ]
        row.n = min(n, len(y))
        row.standing[name] = torch.cat([found["standing"] for found in blocks])
        row.passes[name] = sum(f["forwards"] for f in blocks), sum(f["backwards"] for f in blocks)
        row.seconds[name] = sum(f["seconds"] for f in blocks)
        told = (case.name, row.n, name, row.left(name), row.passes[name], f"{row.seconds[name]:.1f} s")
        print(*told, file=sys.stderr, flush=True)
    return row


def block(file: Path, run: Callable[..., Told], net: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> dict:
    """One run on one block of images."""
    if not file.is_file():
        torch.manual_seed(0)
        start = time.process_time()
        moved, forwards, backwards = run(net, x, y, ball)
        seconds = time.process_time() - start
        with torch.no_grad():
            standing = net(moved.detach()).argmax(1) == y
        # Theirs is given the benefit of rounding; ours is judged as in a game.
        inside = ball.scaled(ball.radius * (1 + 1e-5)).contains(moved.detach(), x)
        found = {"standing": standing | ~inside, "forwards": forwards, "backwards": backwards, "seconds": seconds}
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, file)
    kept: dict = torch.load(file, weights_only=True)
    return kept


def table(rows: list[Row], names: tuple[str, ...]) -> list[str]:
    lines = ["| case | n | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for row in rows:
        cells = [
            f"{row.left(name)}; {row.passes[name][0] / row.n:.0f} + {row.passes[name][1] / row.n:.0f}; "
            f"{row.seconds[name]:.0f} s" if name in row.passes else ""
            for name in names
        ]  # fmt: skip
        lines.append(f"| {row.case} | {row.n} | " + " | ".join(cells) + " |")
    return lines


def targets(rows: list[Row]) -> list[str]:
    """Each target: against all that played, and of the passes of the reference, or of ours where it did not play."""
    lines = ["", "| case | n | target | measured | met |", "|---|---|---|---|---|"]
    for row in rows:
        peer = next((name for name in (OWN_CODE, "autoattack") if name in row.passes), None)
        told = []
        if OWN_CODE in row.passes and "autoattack" in row.passes:
            differs = row.left("autoattack") - row.left(OWN_CODE)
            share = row.seconds["autoattack"] / row.seconds[OWN_CODE]
            told.append(("`autoattack` leaves as many, within 2 of 200", f"{differs:+d}", abs(differs) <= row.n / 100))
            told.append(("`autoattack` in at most .65 of the reference's time", f"{share:.2f}", share <= 0.65))
        others = [name for name in row.passes if name != "cascade"]
        if "cascade" in row.passes and others:
            least = min(others, key=row.left)
            above = row.left("cascade") - row.left(least)
            told.append((f"`cascade` leaves no more than any other (least: {least})", f"{above:+d}", above <= 0))
        if "cascade" in row.passes and peer is not None:
            passes = sum(row.passes["cascade"]) / sum(row.passes[peer])
            told.append((f"`cascade` in at most .10 of the passes ({peer})", f"{passes:.3f}", passes <= 0.1))
        lines += [
            f"| {row.case} | {row.n} | {what} | {value} | {'yes' if met else 'no'} |" for what, value, met in told
        ]
    return lines


def section(rows: list[Row], squares: list[Row], many: bool) -> str:
    text = (
        f"{os.cpu_count()}-core {platform.machine().replace('_', '-')} CPU, 1 thread; {versions()}. Each cell: samples "
        f"left robust; forward + backward passes a sample; processor seconds. Test images that the network gets "
        f"right, linf {', '.join(sorted({f'{case.ball.radius:.3g} on {case.data}' for case in chosen(many)}))}."
    )
    names = tuple(name for name in ENSEMBLES if any(name in row.passes for row in rows))
    parts = [MANY if many else TITLE, "", text, "", *table(rows, names), *targets(rows)]
    if squares:
        parts += ["", f"Square, {QUERIES} queries:", "", *table(squares, ("square", "torchattacks"))]
    return "\n".join(parts) + "\n"


def write(path: Path, text: str, title: str) -> None:
    """Replace this script's section of the results file, or append it."""
    known = path.read_text() if path.is_file() else "# Measured\n"
    before, _, rest = known.partition(title)
    after = rest.partition("\n## ")
    path.write_text(before.rstrip() + "\n\n" + text + (f"\n## {after[2]}" if after[1] else ""))


def cases() -> Iterator[Case]:
    for setting in attacks.settings():
        ball = Ball("linf", setting.cases[0].radius, BOUNDS)
        for network, recipe in setting.recipes.items():
            yield Case(setting, network, recipe, ball)
        if setting.data.name == "cifar10":  # 11 million weights: on few images, for each costs minutes
            training = Training(epochs=6, batch_size=64, schedule="one-cycle", lr=2e-3, precision="bf16-mixed")
            wide = attacks.hardened(ModelSpec("resnet18"), training, WIDE_RADIUS, "fgsm-rs")
            within = Ball("linf", WIDE_RADIUS, BOUNDS)
            yield Case(setting, "FGSM-RS-trained, ordinary width", wide, within, train=WIDE_TRAIN, n=WIDE)
        if "FGSM-RS-trained" not in setting.recipes:
            training = Training(epochs=5, schedule="one-cycle", lr=3e-3)
            fast = attacks.hardened(ModelSpec("cnn"), training, ball.radius, "fgsm-rs")
            learnt: dict[str, int | None] = {"FGSM-RS-trained": None}
            if setting.data.name == "mnist":  # on a fifth of its images, fast training collapses
                learnt = {"FGSM-RS-trained": 60_000, "FGSM-RS-trained, collapsed": None}
            for network, train in learnt.items():
                yield Case(setting, network, fast, ball, train)


def chosen(many: bool) -> list[Case | many_classes.Many]:
    """Those of ten classes, or those of many."""
    return list(many_classes.cases(BOUNDS) if many else cases())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="play cases whose name holds this text")
    parser.add_argument("--many", action="store_true", help="networks of many classes, in a section of their own")
    parser.add_argument("--long", nargs="*", default=[], help=f"cases that ours play on {LONG} images too")
    parser.add_argument("--without", nargs="*", default=[], help="of the ensembles, and square")
    cache = Path(tempfile.gettempdir()) / "robustsuite-benchmarks"
    parser.add_argument("--models", type=Path, default=cache, help="where trained weights and verdicts are kept")
    parser.add_argument("--write", type=Path, help="file whose section is replaced")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, squares = [], []
    for case in chosen(options.many):
        if options.only not in case.name:
            continue
        runs: dict[str, Callable[..., Told]] = {n: partial(ours, n) for n in ENSEMBLES if n != OWN_CODE}
        runs[OWN_CODE] = reference
        runs = {n: run for n, run in runs.items() if n not in options.without}
        rows.append(measure(case, case.n if isinstance(case, Case) else SAMPLES, runs, options.models))
        if case.name in options.long:
            own = {n: run for n, run in runs.items() if n != OWN_CODE}
            rows.append(measure(case, LONG, own, options.models))
        if "square" not in options.without and case.network != "undefended" and isinstance(case, Case):
            pair = {"square": partial(ours, "square", queries=QUERIES), "torchattacks": their_square}
            squares.append(measure(case, SAMPLES, pair, options.models))
    text = section(rows, squares, options.many)
    print(text)
    if options.write:
        write(options.write, text, MANY if options.many else TITLE)


if __name__ == "__main__":
    main()
