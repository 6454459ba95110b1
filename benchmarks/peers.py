"""Fixed-radius gradient attacks of the libraries that are installed, all called alike."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustsuite as rs

BOUNDS = (0.0, 1.0)
Run = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One attack with one budget; a single run starts at the input, restarts and Auto-PGD at random points."""

    name: str
    norm: str
    radius: float
    steps: int
    restarts: int = 1
    kind: str = "pgd"
    step_size: float = 0.1
    samples: float = 1.0

    @property
    def passes(self) -> int:
        return self.steps * self.restarts


def floor(case: Case) -> Run:
    """The passes that an attack without early stopping pays for, and nothing else."""

    def run(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        for _ in range(case.passes):
            leaf = x.clone().requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(net(leaf), y, reduction="sum"), leaf)
        return x

    return run


def attack_of(case: Case) -> Any:
    """Ours."""
    if case.kind == "fgsm":
        return rs.attack("fgsm")
    if case.kind == "mi-fgsm":
        return rs.attack("mi-fgsm", steps=case.steps, step_size=case.step_size)
    if case.kind == "apgd":
        return rs.attack("apgd", steps=case.steps)
    options = {"steps": case.steps, "restarts": case.restarts, "step_size": case.step_size}
    return rs.attack("pgd", random_start=case.restarts > 1, **options)


def ours(case: Case, precision: str = "reference") -> Run:
    attack, ball = attack_of(case), rs.Ball(case.norm, case.radius, BOUNDS)
    return lambda net, x, y: rs.perturb(attack, net, x, y, ball, precision=precision)


def fast(case: Case) -> Run | None:
    return None if case.kind == "fgsm" else ours(case, "fast")


def torchattacks(case: Case) -> Run:
    import torchattacks as peer

    def run(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        alpha = case.step_size * case.radius
        if case.kind == "fgsm":
            return peer.FGSM(net, eps=case.radius)(x, y)
        if case.kind == "mi-fgsm":
            return peer.MIFGSM(net, eps=case.radius, alpha=alpha, steps=case.steps, decay=1.0)(x, y)
        if case.kind == "apgd":
            return peer.APGD(net, norm="Linf", eps=case.radius, steps=case.steps, loss="ce")(x, y)
        kind = peer.PGD if case.norm == "linf" else peer.PGDL2
        options = {"eps": case.radius, "alpha": alpha, "steps": case.steps, "random_start": case.restarts > 1}
        singles = [kind(net, **options) for _ in range(case.restarts)]
        return (singles[0] if case.restarts == 1 else peer.MultiAttack(singles))(x, y)

    return run


def autoattack(case: Case) -> Run | None:
    """AutoAttack's own code."""
    if case.kind != "apgd":
        return None
    from pyautoattack.autopgd_base import APGDAttack

    options = {"n_iter": case.steps, "norm": "Linf", "eps": case.radius, "loss": "ce", "device": "cpu"}
    return lambda net, x, y: APGDAttack(net, **options).perturb(x, y)


def adv_lib(case: Case) -> Run | None:
    from adv_lib import attacks as peer

    if case.kind == "apgd":
        order = float("inf")
        return lambda net, x, y: peer.apgd(net, x, y, case.radius, order, n_iter=case.steps, loss_function="ce")
    if case.kind != "pgd" or case.norm != "linf":
        return None
    options = {"steps": case.steps, "restarts": case.restarts, "relative_step_size": case.step_size}
    return lambda net, x, y: peer.pgd_linf(net, x, y, case.radius, random_init=case.restarts > 1, **options)


def foolbox(case: Case) -> Run | None:
    from foolbox import PyTorchModel
    from foolbox import attacks as peer

    if case.kind == "apgd":
        return None

    def run(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if case.kind == "fgsm":
            attack = peer.LinfFastGradientAttack()
        elif case.kind == "mi-fgsm":
            options = {"abs_stepsize": case.step_size * case.radius, "steps": case.steps, "momentum": 1.0}
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
        common: dict[str, Any] = {
            "norm": np.inf if case.norm == "linf" else 2, "eps": case.radius, "batch_size": len(x),
        }  # fmt: skip
        step = {"eps_step": case.step_size * case.radius, "max_iter": case.steps, "verbose": False}
        starts = case.restarts if case.restarts > 1 else 0
        if case.kind == "fgsm":
            attack = peer.FastGradientMethod(model, **common)
        elif case.kind == "apgd":
            step["eps_step"] = 2 * case.radius
            options = {"nb_random_init": 1, "loss_type": "cross_entropy"}
            attack = peer.AutoProjectedGradientDescent(model, **common, **step, **options)
        elif case.kind == "mi-fgsm":
            attack = peer.ProjectedGradientDescent(model, **common, **step, decay=1.0)
        else:
            attack = peer.ProjectedGradientDescent(model, **common, **step, num_random_init=starts)
        return torch.tensor(attack.generate(x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()]))

    return run


LIBRARIES: dict[str, tuple[str, Callable[[Case], Run | None]]] = {
    "robustsuite": ("robustsuite", ours),
    "robustsuite, fast": ("robustsuite", fast),
    "torchattacks": ("torchattacks", torchattacks),
    "AutoAttack": ("pyautoattack", autoattack),
    "adv-lib": ("adv-lib", adv_lib),
    "Foolbox": ("foolbox", foolbox),
    "ART": ("adversarial-robustness-toolbox", art),
}


def runs(case: Case) -> dict[str, Run]:
    """What each installed library does in this case, where it has the attack."""
    found = {}
    for name, (package, make) in LIBRARIES.items():
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        run = make(case)
        if run is not None:
            found[name] = run
    return found


def versions() -> str:
    """Of torch, numpy and every library that is installed."""
    packages = dict.fromkeys(["torch", "numpy", *(package for package, _ in LIBRARIES.values())])
    known = []
    for package in packages:
        try:
            known.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(known)
