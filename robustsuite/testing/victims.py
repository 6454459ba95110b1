"""Small victims with known ways: trained in a second, on data made here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Served
from robustsuite.core.samples import Samples
from robustsuite.core.splits import RESERVED
from robustsuite.core.streams import Streams
from robustsuite.scenarios.victim import Victim
from robustsuite.training.cache import Trainer
from robustsuite.training.context import Context, PartOf
from robustsuite.training.fit import fit
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training
from robustsuite.training.trained import Trained

SIDE = 8


class TinyNetwork(nn.Module):
    """A convolution with BatchNorm and Dropout, so that a forgotten eval mode shows."""

    def __init__(self, classes: int, bounds: tuple[float, float]) -> None:
        super().__init__()
        self._low, self._width = bounds[0], bounds[1] - bounds[0]
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1), nn.Flatten()
        )
        self.head = nn.Linear(8 * (SIDE // 2) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Raw inputs `(N, 1, 8, 8)` to logits."""
        logits: Tensor = self.head(self.features((x - self._low) / self._width * 2 - 1))
        return logits


@dataclass(frozen=True)
class TinyBuild:
    """Builds a `TinyNetwork`."""

    name: str = "tiny"

    def __call__(self, classes: int, shape: tuple[int, ...], bounds: tuple[float, float]) -> nn.Module:  # noqa: ARG002
        """The network for these bounds."""
        return TinyNetwork(classes, bounds)


def tiny_samples(
    n: int, classes: int = 4, *, bounds: tuple[float, float] = (0.0, 1.0), seed: int = 0, first: int = 0
) -> Samples:
    """Noisy copies of one random 8 x 8 pattern per class; easy to learn, and easy to break.

    Args:
        n: Number of samples; their ids run from `first`.
        classes: Number of patterns.
        bounds: Range of the inputs.
        seed: Keys patterns and noise.
        first: First id; other ids are other samples of the same patterns.
    """
    streams, ids = Streams(seed).child("tiny"), torch.arange(first, first + n)
    y = ids % classes
    patterns = streams.child("patterns").uniform(torch.arange(classes), (1, SIDE, SIDE))
    noise = streams.child("noise").uniform(ids, (1, SIDE, SIDE))
    unit = 0.25 + 0.5 * (0.45 * patterns[y] + 0.55 * noise)
    return Samples(bounds[0] + (bounds[1] - bounds[0]) * unit, y, classes, bounds, ids)


def tiny_parts(classes: int = 4, *, bounds: tuple[float, float] = (0.0, 1.0)) -> PartOf:
    """The parts of a data set beside training and test samples, 160 samples each, with ids of their own.

    Args:
        classes: Number of patterns.
        bounds: Range of the inputs.
    """
    first = {name: 20_000 + 1000 * i for i, name in enumerate(RESERVED)}
    return lambda name: tiny_samples(160, classes, bounds=bounds, first=first[name]) if name in first else None


def tiny_context(**parts: Samples) -> Context:
    """What a part of a recipe is given on tiny samples of 4 classes; it trains other networks by `tiny_recipe`.

    Args:
        **parts: The parts of the data set by name; by default those of `tiny_parts`.
    """
    given = tiny_parts()
    samples = next(iter(parts.values()), tiny_samples(4))
    known = parts or {name: found for name in RESERVED if (found := given(name)) is not None}

    def train(samples: Samples, *, build: Any = None, training: Training | None = None) -> nn.Module:
        recipe = tiny_recipe()
        made = replace(recipe, build=build or recipe.build, training=training or recipe.training)
        return fit(made, samples, 0).network

    return Context(Streams(0).child("tiny"), "cpu", samples.classes, samples.shape, samples.bounds, known, train)


def tiny_network(classes: int = 4, *, bounds: tuple[float, float] = (0.0, 1.0), seed: int = 0) -> nn.Module:
    """A network trained on `tiny_samples`; the same object at each call, so leave it as it is."""
    return _fitted(classes, bounds, seed).model.network


@cache
def _fitted(classes: int, bounds: tuple[float, float], seed: int) -> Trained:
    return Trainer(seed)(tiny_recipe(), tiny_samples(320, classes, bounds=bounds))


def tiny_recipe() -> Recipe:
    """The recipe of the tiny victims."""
    settings = Training(epochs=6, lr=1e-2, batch_size=32, validation=0.1)
    return Recipe(build=TinyBuild(), training=settings, threat=Ball("linf", 0.1))


def tiny_victim(
    n: int = 101,
    classes: int = 4,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    dtype: torch.dtype = torch.float32,
    training_mode: bool = False,
) -> Victim:
    """A trained victim with recipe, training set, trainer and every part of a data set.

    Args:
        n: Test samples.
        classes: Classes.
        bounds: Range of the inputs.
        dtype: Of the network.
        training_mode: Whether the network is handed over in training mode.
    """
    import copy

    network = copy.deepcopy(tiny_network(classes, bounds=bounds)).to(dtype)
    network.train(training_mode)
    test = tiny_samples(n, classes, bounds=bounds, first=10_000)
    train = tiny_samples(320, classes, bounds=bounds)
    part = tiny_parts(classes, bounds=bounds)
    trainer = Trainer(0, part=part)
    return Victim(Served(network), test, recipe=tiny_recipe(), train=train, trainer=trainer, part=part)
