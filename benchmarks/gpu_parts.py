"""What `gpu.py` measures on a device: trainings, attacks over the floor of pure passes, privacy over plain descent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from recipes import PLANS, Watched, accuracy
from torch import Tensor, nn

import robustsuite as rs
from robustsuite.core.ball import Ball, Threat
from robustsuite.core.deployed import Served
from robustsuite.core.errors import RequestError
from robustsuite.core.samples import Samples
from robustsuite.core.splits import Splits
from robustsuite.data.catalogue import DatasetSpec, load
from robustsuite.models.build import ModelSpec
from robustsuite.plugins import registry
from robustsuite.scenarios import game
from robustsuite.scenarios.play import play
from robustsuite.scenarios.victim import Victim
from robustsuite.training import Recipe, Training
from robustsuite.training.fit import fit

RADIUS: Final = 8 / 255
SHARE: Final = 0.8  # of a slice, for the training that it is there for
PRECISIONS: Final = {"float32": (False, "reference"), "tf32": (True, "reference"), "bf16": (False, "fast")}
WEIGHTS: Final = "hardened.pt"

Figures = dict[str, Any]
Tell = Callable[[Figures], None]


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Whether convolutions and products on CUDA may round float32 to TF32 in this block."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@dataclass(frozen=True)
class Bench:
    """A device and what is measured on it.

    Args:
        device: Such as `cuda`.
        toy: Whether all sizes are tiny.
        folder: Where weights are kept between parts.
    """

    device: str
    toy: bool
    folder: Path

    @cached_property
    def splits(self) -> Splits:
        """CIFAR-10, or the digits where it is not there."""
        if not self.toy:
            with contextlib.suppress(RequestError):
                return load(DatasetSpec(name="cifar10"), seed=0)
        return load(DatasetSpec(name="digits", **({"train": 200, "test": 40} if self.toy else {})), seed=0)

    @property
    def data(self) -> str:
        """What the splits are."""
        shape = "x".join(map(str, self.splits.train.shape))
        return f"{len(self.splits.train)} + {len(self.splits.test)} images of {shape}"

    def net(self, **options: Any) -> ModelSpec:
        """A ResNet-18, narrow where all is tiny."""
        return ModelSpec("resnet18", options=tuple((options | ({"width": 4} if self.toy else {})).items()))

    def wait(self) -> float:
        """Seconds, once the device has done what it was asked."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self, run: Callable[[], object]) -> float:
        """Of a call, on a device that has nothing else to do."""
        started = self.wait()
        run()
        return self.wait() - started

    def affordable(self, recipe: Recipe, seconds: float) -> Recipe:
        """The recipe with as many of its epochs as its device does in so many seconds, at least one."""
        train, size = self.splits.train, recipe.training.batch_size
        few = train.take(slice(0, min(len(train), 8 * size)))
        short = replace(recipe, training=recipe.training.override({"epochs": 1}))
        fit(short, few, 0, device=self.device)  # the first training loads and chooses kernels
        epoch = self.seconds(lambda: fit(short, few, 0, device=self.device)) * len(train) / len(few)
        epochs = max(1, min(recipe.training.epochs, int(seconds / epoch)))
        return replace(recipe, training=recipe.training.override({"epochs": epochs}))

    def trainer(self, seconds: float, tell: Tell) -> Figures:
        """Seconds of training to the target, or how far it gets."""
        plan = PLANS["cifar10-gpu"]
        started = time.perf_counter()
        recipe = replace(plan.recipe(**({"epochs": 2, "batch_size": 64} if self.toy else {})), build=self.net())
        recipe = self.affordable(recipe, SHARE * (seconds - (time.perf_counter() - started)))
        about = {"data": self.data, "epochs": recipe.training.epochs, "target": plan.target}
        tell(about)
        curve: list[dict[str, float]] = []

        def seen(row: dict[str, float]) -> None:
            curve.append(row)
            tell({"accuracy": row["accuracy"], "training seconds": row["seconds"], "epochs done": row["epoch"]})

        objective = Watched(test=self.splits.test, tell=seen, clock=self.wait)
        watched = replace(recipe, objective=objective)
        started = self.wait()
        network = fit(watched, self.splits.train, 0, device=self.device).network
        whole = self.wait() - started
        spent = (
            self.seconds(lambda: fit(recipe, self.splits.train, 0, device=self.device)) if whole < seconds / 3 else 0
        )
        right = accuracy(network, self.splits.test)
        reached = next((row["seconds"] for row in curve if row["accuracy"] >= plan.target), None)
        reached = reached if reached is not None or right < plan.target else round(spent, 2)
        return {
            **about,
            "accuracy": right,
            "training seconds": round(spent, 2),
            "seconds to the target": reached if reached is not None else "not reached",
            "curve": [[row["epoch"], row["seconds"], row["accuracy"]] for row in curve],
        }

    def hardened(self, seconds: float, tell: Tell) -> Figures:
        """Fast adversarial training, and what it withstands."""
        size = 64 if self.toy else 256
        settings = {"optimizer": "sgd", "lr": 0.2, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "one-cycle"}
        training = Training(epochs=1 if self.toy else 15, batch_size=size, validation=0.02, keep_best=True, **settings)
        defend = rs.defense("adversarial-training", attack="fgsm-rs", norm="linf", radius=RADIUS)
        recipe = self.affordable(defend(Recipe(build=self.net(), training=training)), SHARE * 0.8 * seconds)
        tell({"data": self.data, "epochs": recipe.training.epochs})
        started = self.wait()
        fitted = fit(recipe, self.splits.train, 0, device=self.device)
        spent = self.wait() - started
        torch.save(fitted.network.state_dict(), self.folder / WEIGHTS)
        tell({"training seconds": round(spent, 2), "flags": ", ".join(fitted.flags) or "none"})
        few = self._few(8 if self.toy else 1000)
        scores = self._play("pgd", {"steps": 2 if self.toy else 50}, fitted.network, few, "reference")
        robust = float(scores.per_sample["robust"].float().mean())
        return {"accuracy": accuracy(fitted.network, self.splits.test), f"robust accuracy, PGD, n {len(few)}": robust}

    def _few(self, n: int) -> Samples:
        """So many test images, in an order that tells nothing of their classes."""
        test = self.splits.test
        order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:n]
        return test.take(order.sort().values)

    def _play(self, name: str, options: Figures, network: nn.Module, test: Samples, precision: str) -> Any:
        entry = registry.attacks.get(name)
        rules = {"precision": precision, "follow_up": False}
        victim = Victim(Served(network.eval()), test, device=self.device)
        return play(entry.make(options), game(entry, Threat(ball=Ball("linf", RADIUS)), rules), victim, seed=0)

    def network(self) -> nn.Module:
        """The adversarially trained network of the part before, or a fresh one where that did not get so far."""
        torch.manual_seed(0)
        network: nn.Module = self.net()(self.splits.test.classes, self.splits.test.shape, self.splits.test.bounds)
        if (self.folder / WEIGHTS).is_file():
            network.load_state_dict(torch.load(self.folder / WEIGHTS, weights_only=True))
        return network.to(self.device).eval().requires_grad_(False)

    def attacks(self, seconds: float, tell: Tell) -> Figures:
        """Seconds of PGD and `cascade` over those of the bare network's passes; verdicts beside float32's."""
        network, figures = self.network(), {"hardened": str((self.folder / WEIGHTS).is_file())}
        sizes = {
            "pgd": (8 if self.toy else 512, {"steps": 2 if self.toy else 20}),
            "cascade": (4 if self.toy else 128, {}),
        }
        started = time.perf_counter()
        for name, (n, options) in sizes.items():
            test, reference = self._few(n), None
            for kind, (on, precision) in PRECISIONS.items():
                if time.perf_counter() - started > SHARE * seconds:
                    figures[f"{name}, {kind}"] = "no time left"
                    continue
                with tf32(on):
                    once = {"steps": 1} if name == "pgd" else options
                    self._play(name, once, network, test, precision)  # loads and chooses kernels
                    scores: list[Any] = []

                    def whole(
                        name: str = name,
                        options: Figures = options,
                        test: Samples = test,
                        precision: str = precision,
                        scores: list[Any] = scores,
                    ) -> None:
                        scores.append(self._play(name, options, network, test, precision))  # fmt: skip

                    spent = self.seconds(whole)
                    forward, backward = self.floor(network, test, bf16=precision == "fast")
                (score,) = scores
                cost, robust = score.cost, score.per_sample["robust"]
                pure = cost["forwards"] * forward + cost["backwards"] * backward
                reference = robust if reference is None else reference
                figures[f"{name}, {kind}"] = {
                    "n": len(test),
                    "seconds": round(spent, 3),
                    "over the floor": round(spent / pure, 3),
                    "robust": int(robust.sum()),
                    "verdicts unlike float32": int((robust != reference).sum()),
                }
                tell({f"{name}, {kind}": figures[f"{name}, {kind}"]})
        return figures

    def floor(self, network: nn.Module, test: Samples, *, bf16: bool) -> tuple[float, float]:
        """Seconds a sample of a forward pass, and of what an input gradient adds to one."""
        batch = test.batch(slice(0, 128), self.device)
        times = 1 if self.toy else 10
        kind = self.device.partition(":")[0]

        def loss(x: Tensor) -> Tensor:
            with torch.autocast(kind, torch.bfloat16, enabled=bf16):
                logits = network(x)
            return F.cross_entropy(logits.float(), batch.y, reduction="sum")

        def forwards() -> None:
            with torch.no_grad():
                for _ in range(times):
                    loss(batch.x)

        def both() -> None:
            for _ in range(times):
                leaf = batch.x.clone().requires_grad_()
                torch.autograd.grad(loss(leaf), leaf)

        forwards(), both()
        one, two = self.seconds(forwards), self.seconds(both)
        count = times * len(batch.y)
        return one / count, max(two - one, 0.0) / count

    def private(self, seconds: float, tell: Tell) -> Figures:  # noqa: ARG002
        """Seconds of an epoch of DP-SGD over those of plain SGD, same network, batch and samples."""
        train = self.splits.train.take(slice(0, 64 if self.toy else 8192))
        size = 16 if self.toy else 512
        training = Training(epochs=1, optimizer="sgd", lr=0.1, batch_size=size, validation=0.0, normalise="bounds")
        plain = Recipe(build=self.net(norm="group"), training=training)
        recipes = {"SGD": plain, "DP-SGD": rs.defense("dp-sgd", noise_multiplier=1.0)(plain)}
        spent = {}
        for name, recipe in recipes.items():
            if not self.toy:
                fit(recipe, train.take(slice(0, 2 * size)), 0, device=self.device)
            spent[name] = self.seconds(lambda recipe=recipe: fit(recipe, train, 0, device=self.device))
            tell({f"{name}, seconds": round(spent[name], 2)})
        return {"n": len(train), "ratio": round(spent["DP-SGD"] / spent["SGD"], 2)}
