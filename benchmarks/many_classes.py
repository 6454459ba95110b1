"""Networks of 40, 100 and 200 classes for `ensembles.py`: faces of people, and images that are made here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attacks
from robustsuite.core.ball import Ball
from robustsuite.core.samples import Samples
from robustsuite.data.catalogue import DatasetSpec, load
from robustsuite.models.build import ModelSpec
from robustsuite.training.settings import Training

SIDE = 16
EACH = 30, 4  # training and test images of each class that is made


class Made(NamedTuple):
    """Images of so many classes: a smooth pattern each, moved, faded and with noise; `made` without data of anybody's.

    Args:
        classes: How many.
    """

    classes: int

    def samples(self) -> tuple[Samples, Samples]:
        """Training and test samples."""
        generator = torch.Generator().manual_seed(self.classes)
        coarse = torch.randn(self.classes, 1, 5, 5, generator=generator)
        patterns = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic", align_corners=True).mul(1.5).sigmoid()
        train, test = (self._some(patterns, each, generator) for each in EACH)
        return train, test

    def _some(self, patterns: Tensor, each: int, generator: torch.Generator) -> Samples:
        y = torch.arange(self.classes).repeat(each)
        x = patterns[y]
        turns = torch.randint(-1, 2, (len(y), 2), generator=generator)
        x = torch.stack([image.roll((int(a), int(b)), (1, 2)) for image, (a, b) in zip(x, turns, strict=True)])
        faded = 0.5 + (0.7 + 0.3 * torch.rand(len(y), 1, 1, 1, generator=generator)) * (x - 0.5)
        return Samples((faded + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1), y, self.classes)


class Many(NamedTuple):
    """A network of many classes, and the ball in which it is attacked."""

    data: str
    network: str
    ball: Ball

    @property
    def name(self) -> str:
        return f"{self.data}, {self.network}"

    def given(self, folder: Path, n: int) -> tuple[nn.Module, Tensor, Tensor]:
        """The network, and the first test images that it gets right."""
        if self.data == "faces":
            splits = load(DatasetSpec(name="image-folder", path="orl_faces", size=(28, 23), test=160), seed=0)
            train, test = splits.train, splits.test
        else:
            train, test = Made(int(self.data.split()[1])).samples()
        attack = "fgsm-rs" if self.network.startswith("FGSM") else {"pgd": {"steps": 7, "step_size": 0.25}}
        epochs = 80 if self.data == "faces" else 20
        training = Training(epochs=epochs, schedule="one-cycle", lr=3e-3)
        recipe = attacks.hardened(ModelSpec("mlp", options=(("hidden", (128,)),)), training, self.ball.radius, attack)
        net = attacks.trained(recipe, train, folder / f"{self.data}-{self.network}").requires_grad_(False)
        x, y = test.inputs(), test.y
        with torch.no_grad():
            right = net(x).argmax(1) == y
        return net, x[right][:n], y[right][:n]


def cases(bounds: tuple[float, float]) -> Iterator[Many]:
    """People first, then 100 and 200 classes."""
    yield Many("faces", "PGD-trained", Ball("linf", 0.03, bounds))
    for classes in (100, 200):
        yield Many(f"made {classes}", "PGD-trained", Ball("linf", 0.1, bounds))
    yield Many("made 100", "FGSM-RS-trained", Ball("linf", 0.1, bounds))
