"""Gradient attacks against the peers that are installed: processor seconds, passes and robust accuracy.

Same network, images, radius and steps (a single run starts at the input, restarts at random points), one thread,
interleaved: every round runs the floor and each library once, so that drift of a busy machine hits all alike. The floor
is the same number of forward and input-gradient passes of the bare network and nothing else. MNIST where
ROBUSTSUITE_DATA holds it, else the embedded digits.

    python benchmarks/attacks.py --samples 200 --rounds 3 --write benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustsuite as rs
from robustsuite.data.catalogue import DatasetSpec, load
from robustsuite.models.build import ModelSpec
from robustsuite.scenarios.views import Counted, Meter
from robustsuite.threat import Ball
from robustsuite.training.cache import Trainer
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

CHUNK = 100  # images at a time, for every library
BOUNDS = (0.0, 1.0)
TITLE = "## Fixed-step gradient attacks"
Run = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One attack with one budget."""

    name: str
    norm: str
    radius: float
    steps: int
    restarts: int = 1
    momentum: float = 0.0
    step_size: float = 0.1

    @property
    def passes(self) -> int:
        return self.steps * self.restarts


def cases(mnist: bool) -> tuple[Case, ...]:
    linf, l2 = (0.3, 2.0) if mnist else (0.15, 1.0)
    return (
        Case("FGSM", "linf", linf, 1, step_size=1.0),
        Case("PGD-40", "linf", linf, 40),
        Case("PGD-40 x 5", "linf", linf, 40, restarts=5),
        Case("MI-FGSM-10", "linf", linf, 10, momentum=1.0),
        Case("PGD-40 l2", "l2", l2, 40),
    )


def floor(case: Case) -> Run:
    """The passes that an attack without early stopping pays for, and nothing else."""

    def run(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        for _ in range(case.passes):
            leaf = x.clone().requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(net(leaf), y, reduction="sum"), leaf)
        return x

    return run


def ours(case: Case) -> Run:
    attack = rs.attack("fgsm")
    if case.steps > 1:
        options = {"steps": case.steps, "restarts": case.restarts, "momentum": case.momentum}
        attack = rs.attack("pgd", step_size=case.step_size, random_start=case.restarts > 1, **options)
    return lambda net, x, y: rs.perturb(attack, net, x, y, Ball(case.norm, case.radius, BOUNDS), batch_size=CHUNK)


def torchattacks(case: Case) -> Run:
    import torchattacks as peer

    def run(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        alpha = case.step_size * case.radius
        if case.steps == 1:
            return peer.FGSM(net, eps=case.radius)(x, y)
        if case.momentum:
            return peer.MIFGSM(net, eps=case.radius, alpha=alpha, steps=case.steps, decay=case.momentum)(x, y)
        kind = peer.PGD if case.norm == "linf" else peer.PGDL2
        options = {"eps": case.radius, "alpha": alpha, "steps": case.steps, "random_start": case.restarts > 1}
        singles = [kind(net, **options) for _ in range(case.restarts)]
        return (singles[0] if case.restarts == 1 else peer.MultiAttack(singles))(x, y)

    return run


def foolbox(case: Case) -> Run:
    from foolbox import PyTorchModel
    from foolbox import attacks as peer

    def run(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if case.steps == 1:
            attack = peer.LinfFastGradientAttack()
        elif case.momentum:
            options = {"abs_stepsize": case.step_size * case.radius, "steps": case.steps, "momentum": case.momentum}
            attack = peer.LinfMomentumIterativeFastGradientMethod(**options)
        else:
            kind = peer.LinfPGD if case.norm == "linf" else peer.L2PGD
            attack = kind(rel_stepsize=case.step_size, steps=case.steps, random_start=case.restarts > 1)
        if case.restarts > 1:
            attack = attack.repeat(case.restarts)
        return attack(PyTorchModel(net, bounds=BOUNDS, device="cpu"), x, y, epsilons=case.radius)[1]

    return run


def art(case: Case) -> Run:
    from art.attacks import evasion as peer
    from art.estimators.classification import PyTorchClassifier

    def run(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        shape = tuple(x.shape[1:])
        model = PyTorchClassifier(net, nn.CrossEntropyLoss(), shape, 10, clip_values=BOUNDS, device_type="cpu")
        order = np.inf if case.norm == "linf" else 2
        common: dict[str, Any] = {"norm": order, "eps": case.radius, "batch_size": CHUNK}
        if case.steps == 1:
            attack = peer.FastGradientMethod(model, **common)
        else:
            step = {"eps_step": case.step_size * case.radius, "max_iter": case.steps, "verbose": False}
            decay = (
                {"decay": case.momentum}
                if case.momentum
                else {"num_random_init": case.restarts if case.restarts > 1 else 0}
            )
            attack = peer.ProjectedGradientDescent(model, **common, **step, **decay)
        return torch.tensor(attack.generate(x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()]))

    return run


LIBRARIES = {
    "robustsuite": ("robustsuite", ours),
    "torchattacks": ("torchattacks", torchattacks),
    "Foolbox": ("foolbox", foolbox),
    "ART": ("adversarial-robustness-toolbox", art),
}


def installed() -> dict[str, Callable[[Case], Run]]:
    found = {}
    for name, (package, make) in LIBRARIES.items():
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = make
    return found


def clock(run: Run, net: nn.Module, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Processor seconds and the result, chunk by chunk; seeds and weight gradients as the library finds them."""
    torch.manual_seed(0)
    np.random.seed(0)
    start = time.process_time()
    moved = torch.cat([run(net, *part) for part in zip(x.split(CHUNK), y.split(CHUNK), strict=True)])
    return time.process_time() - start, moved.detach()


def standing(net: nn.Module, moved: Tensor, y: Tensor) -> int:
    with torch.no_grad():
        return int((net(moved).argmax(1) == y).sum())


def needed(case: Case, net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Backward passes that ours ran, as a share of all."""
    meter = Meter()
    ours(case)(Counted(net, meter), x, y)
    return meter.backwards / (case.passes * len(x))


def measure(case: Case, net: nn.Module, x: Tensor, y: Tensor, rounds: int) -> dict[str, Any]:
    """Median over rounds of each library's seconds over the floor's of the same round."""
    runs = {"floor": floor(case), **{name: make(case) for name, make in installed().items()}}
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    left: dict[str, int] = {}
    base = []
    for _ in range(rounds if case.restarts == 1 else 1):
        seconds = {}
        for name, run in runs.items():
            seconds[name], moved = clock(run, net, x, y)
            if name != "floor":
                left[name] = standing(net, moved, y)
        base.append(seconds["floor"])
        for name, value in seconds.items():
            ratios[name].append(value / seconds["floor"])
    return {
        "floor": statistics.median(base),
        "ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "standing": left,
        "needed": needed(case, net, x, y),
    }


def networks(mnist: bool, folder: Path) -> tuple[dict[str, nn.Module], Tensor, Tensor]:
    """An undefended and an adversarially trained network, kept between runs, and test images that both get right."""
    torch.set_num_threads(1)
    splits = load(DatasetSpec(name="mnist", train=12_000, test=1000) if mnist else DatasetSpec(name="digits"), seed=0)
    plain = Recipe(build=ModelSpec("cnn"), training=Training(epochs=3 if mnist else 15))
    inner = {"pgd": {"steps": 7, "step_size": 0.25}}
    hardening = rs.defense("adversarial-training", attack=inner, norm="linf", radius=0.3 if mnist else 0.15, warmup=1)
    settings = Training(epochs=5 if mnist else 20, schedule="one-cycle", lr=3e-3)
    hard = hardening(Recipe(build=ModelSpec("cnn"), training=settings))
    nets: dict[str, nn.Module] = {}
    for name, recipe in (("undefended", plain), ("trained", hard)):
        fitted = Trainer(0, folder=folder)(recipe, splits.train)
        nets[name] = fitted.model.network.eval()
        print(f"{name}: {fitted.history[-1] if fitted.history else ''}", file=sys.stderr)
    x, y = splits.test.inputs(), splits.test.y
    with torch.no_grad():
        right = torch.stack([net(x).argmax(1) == y for net in nets.values()]).all(0)
    return nets, x[right], y[right]


def versions() -> str:
    packages = ["torch", "numpy", *(package for package, _ in LIBRARIES.values())]
    known = []
    for package in packages:
        try:
            known.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(known)


def table(rows: list[tuple[str, Case, dict[str, Any]]], n: int, data: str, rounds: int) -> str:
    names = list(installed())
    machine = f"{os.cpu_count()}-core {platform.machine().replace('_', '-')} CPU, 1 thread"
    lines = [
        TITLE,
        "",
        f"{data}, {n} test images that both networks get right, {CHUNK} at a time; {machine}; Python "
        f"{platform.python_version()}, {versions()}. Processor seconds over the floor (the same number of forward and "
        f"input-gradient passes of the bare network), median of {rounds} interleaved rounds (restarts: one); in "
        f"brackets the robust accuracy. *needed* is the share of those passes that robustsuite ran before every sample "
        f"had fallen or the budget was spent. A single run starts at the input, restarts at random points. *agrees*: "
        f"ours leaves at most one sample in 200 more standing than the strongest peer.",
        "",
        "| network | attack | floor, s | needed | " + " | ".join(names) + " | agrees |",
        "|---|---|---|---|" + "---|" * (len(names) + 1),
    ]
    for network, case, result in rows:
        cells = [f"{result['ratio'][name]:.2f} ({result['standing'][name] / n:.3f})" for name in names]
        peers = [result["standing"][name] for name in names if name != "robustsuite"]
        agrees = not peers or result["standing"]["robustsuite"] <= min(peers) + max(1, n // 200)
        label = f"{case.name}, {case.norm} {case.radius:g}"
        lines.append(
            f"| {network} | {label} | {result['floor']:.2f} | {result['needed']:.2f} | " + " | ".join(cells)
            + f" | {'yes' if agrees else 'NO'} |"
        )  # fmt: skip
    return "\n".join(lines) + "\n"


def write(path: Path, section: str) -> None:
    """Replace this script's section of the results file, or append it."""
    text = path.read_text() if path.is_file() else "# Measured\n"
    before, _, rest = text.partition(TITLE)
    after = rest.partition("\n## ")
    tail = f"\n## {after[2]}" if after[1] else ""
    path.write_text(before.rstrip() + "\n\n" + section + tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", choices=("auto", "mnist", "digits"), default="auto")
    parser.add_argument("--models", type=Path, default=Path("runs/benchmarks"), help="where trained weights are kept")
    parser.add_argument("--write", type=Path, help="file whose section is replaced")
    options = parser.parse_args()
    mnist = options.data == "mnist" or (options.data == "auto" and "ROBUSTSUITE_DATA" in os.environ)
    nets, x, y = networks(mnist, options.models)
    x, y = x[: options.samples], y[: options.samples]
    rows = []
    for name, net in nets.items():
        for case in cases(mnist):
            rows.append((name, case, measure(case, net, x, y, options.rounds)))
            print(f"{name} {case.name}: {rows[-1][2]}", file=sys.stderr, flush=True)
    section = table(rows, len(x), "MNIST" if mnist else "digits", options.rounds)
    print(section)
    if options.write:
        write(options.write, section)


if __name__ == "__main__":
    main()
