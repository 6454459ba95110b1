"""`autoattack` and `adaptive` against AutoAttack's own code: verdicts, passes and processor seconds; Square beside it.

Same networks, images and radii, one thread. The networks are those of `attacks.py`, trained once and kept.

    python benchmarks/ensembles.py --samples 100 --write benchmarks/RESULTS.md
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
from functools import partial
from pathlib import Path

import torch
from peers import BOUNDS, versions
from torch import Tensor, nn

import attacks
import robustsuite as rs
from robustsuite.isolation import untouched
from robustsuite.scenarios.engine import TRIAL, Engine
from robustsuite.scenarios.views import Meter, make_view
from robustsuite.serving import Served
from robustsuite.streams import Streams
from robustsuite.threat import Ball

TITLE = "## Ensembles and Square"
ENSEMBLES = ("adaptive", "autoattack", "AutoAttack's own code")
QUERIES = 1000
Told = tuple[Tensor, int, int]


@dataclass
class Row:
    """What each library left standing in one case, at what cost."""

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
    access = "scores" if name == "square" else "white-box"
    meter = Meter()
    with untouched(net):
        engine = Engine(net, x[:TRIAL]) if access == "white-box" else None
        common = {"x": x, "y": y, "ids": torch.arange(len(y)), "ball": ball, "classes": 10, "meter": meter}
        view = make_view(access, Served(net), common, engine=engine)
        moved = rs.attack(name, **options)(view, Streams(0).child("attack"))
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


def measure(case: str, net: nn.Module, y: Tensor, runs: dict[str, Callable[[], Told]]) -> Row:
    row = Row(case, len(y))
    for name, run in runs.items():
        torch.manual_seed(0)
        start = time.process_time()
        moved, forwards, backwards = run()
        row.seconds[name] = time.process_time() - start
        row.passes[name] = forwards, backwards
        with torch.no_grad():
            row.standing[name] = net(moved.detach()).argmax(1) == y
        print(case, name, row.left(name), row.passes[name], f"{row.seconds[name]:.1f} s", file=sys.stderr, flush=True)
    return row


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
    lines = ["", "| case | target | measured | met |", "|---|---|---|---|"]
    for row in rows:
        peer = ENSEMBLES[2]
        if peer not in row.passes:
            continue
        share = {name: row.seconds[name] / row.seconds[peer] for name in ENSEMBLES[:2]}
        passes = sum(row.passes["adaptive"]) / sum(row.passes[peer])
        differs = row.left("autoattack") - row.left(peer)
        above = row.left("adaptive") - row.left(peer)
        told = (
            ("`autoattack` stands like its model, within 2 of 200", f"{differs:+d}", abs(differs) <= 2 * row.n / 200),
            ("`autoattack` in at most .65 of its time", f"{share['autoattack']:.2f}", share["autoattack"] <= 0.65),
            ("`adaptive` leaves at most 1 in 1,000 more", f"{above:+d}", above <= row.n / 1000),
            ("`adaptive` in at most a fifth of its passes", f"{passes:.3f}", passes <= 0.2),
            ("`adaptive` in at most a sixth of its time", f"{share['adaptive']:.3f}", share["adaptive"] <= 1 / 6),
        )
        lines += [f"| {row.case} | {what} | {value} | {'yes' if met else 'no'} |" for what, value, met in told]
    return lines


def section(rows: list[Row], squares: list[Row]) -> str:
    text = (
        f"{os.cpu_count()}-core {platform.machine().replace('_', '-')} CPU, 1 thread; {versions()}. Each cell: samples "
        f"left standing; forward + backward passes a sample; processor seconds."
    )
    names = tuple(name for name in ENSEMBLES if any(name in row.passes for row in rows))
    parts = [TITLE, "", text, "", *table(rows, names), *targets(rows)]
    if squares:
        parts += ["", f"Square, {QUERIES} queries:", "", *table(squares, ("square", "torchattacks"))]
    return "\n".join(parts) + "\n"


def write(path: Path, text: str) -> None:
    """Replace this script's section of the results file, or append it."""
    known = path.read_text() if path.is_file() else "# Measured\n"
    before, _, rest = known.partition(TITLE)
    after = rest.partition("\n## ")
    path.write_text(before.rstrip() + "\n\n" + text + (f"\n## {after[2]}" if after[1] else ""))


def cases(setting: attacks.Setting) -> list[Ball]:
    return list(dict.fromkeys(Ball(case.norm, case.radius, BOUNDS) for case in setting.cases))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100, help="images of each data set")
    parser.add_argument("--only", default="", help="play cases whose line holds this text")
    parser.add_argument("--without", nargs="*", default=[], help="of the ensembles, and square")
    cache = Path(tempfile.gettempdir()) / "robustsuite-benchmarks"
    parser.add_argument("--models", type=Path, default=cache, help="where trained weights are kept")
    parser.add_argument("--write", type=Path, help="file whose section is replaced")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, squares = [], []
    for setting in attacks.settings():
        nets, x, y = attacks.networks(setting, options.models)
        x, y = x[: options.samples], y[: options.samples]
        for name, net in nets.items():
            net.requires_grad_(False)
            for ball in cases(setting):
                case = f"{setting.data.name}, {name}, {ball.norm} {ball.radius:.3g}"
                if options.only not in case:
                    continue
                given = (net, x, y, ball)
                runs: dict[str, Callable[[], Told]] = {n: partial(ours, n, *given) for n in ENSEMBLES[:2]}
                runs[ENSEMBLES[2]] = partial(reference, *given)
                runs = {n: run for n, run in runs.items() if n not in options.without}
                rows.append(measure(case, net, y, runs))
                if "square" not in options.without:
                    pair = {
                        "square": partial(ours, "square", *given, queries=QUERIES),
                        "torchattacks": partial(their_square, *given),
                    }
                    squares.append(measure(case, net, y, pair))
    text = section(rows, squares)
    print(text)
    if options.write:
        write(options.write, text)


if __name__ == "__main__":
    main()
