"""What happens before the first batch and after the last: preparing, repairing, serving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from robustsuite.core.deployed import Deployed, Served
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.training.context import Context, PartOf, Produced, named, read_parts, stage
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

T = TypeVar("T")
Also = Callable[[Recipe, Samples, int], nn.Module]
"""Trains a recipe on samples from a seed; gives a network of its own."""


class Stages:
    """The stages of one training, each run once, and what they say of themselves.

    Args:
        recipe: Whose stages.
        samples: The training set as it was given; shape, classes and bounds are read from it.
        seed: Of the training.
        device: Where networks are.
        part: The parts of the data set beside the training samples.
        also: Trains what a stage asks for.
    """

    def __init__(self, recipe: Recipe, samples: Samples, seed: int, device: str, part: PartOf, also: Also) -> None:
        self._recipe, self._samples, self._seed = recipe, samples, seed
        self._device, self._part, self._also = device, part, also
        self.facts: dict[str, Any] = {}
        self.flags: tuple[str, ...] = ()
        self.scores: dict[str, Tensor] = {}

    def prepared(self, samples: Samples) -> Samples:
        """The samples after every `prepare`, which is shown a copy."""
        if self._recipe.prepare:  # validation is cut by the labels as they came, whatever becomes of them
            samples = replace(samples, places=samples.order())
        for i, part in enumerate(self._recipe.prepare):
            before = len(samples)
            samples = self._run("prepare", i, part, samples.copy(), Samples)
            self.facts["prepare"][-1] |= {"samples": before, "kept": len(samples)}
        return samples

    def repaired(self, network: nn.Module) -> nn.Module:
        """The network after every `repair`."""
        for i, part in enumerate(self._recipe.repair):
            network = self._run("repair", i, part, network, nn.Module)
        return network

    def served(self, network: nn.Module) -> Deployed:
        """The network behind every `serve`."""
        model: Deployed = Served(network)
        for i, part in enumerate(self._recipe.serve):
            model = self._run("serve", i, part, model, Deployed)  # type: ignore[type-abstract]
        return model

    def _run(self, stage_name: str, i: int, part: Any, value: T, kind: type[T]) -> T:
        made: Produced[T] = stage(part, value, kind, self.context(stage_name, i, part))
        self.facts.setdefault(stage_name, []).append({"is": named(part), **made.facts})
        self.flags = (*self.flags, *made.flags)
        if made.ids is not None:
            columns = {"ids": made.ids, **made.scores}
            self.scores |= {f"{stage_name} {i} {name}": column.detach().cpu() for name, column in columns.items()}
        return made.value

    def context(self, stage_name: str, i: int, part: Any) -> Context:
        """What the part of this number is given in a stage: `prepare`, `repair` or `serve`."""
        streams = Streams(self._seed).child(stage_name, i)
        samples = self._samples
        train = partial(self._another, streams.child("train"), [])
        parts = read_parts(part, self._part)
        return Context(streams, self._device, samples.classes, samples.shape, samples.bounds, parts, train)

    def _another(
        self,
        streams: Streams,
        asked: list[None],
        samples: Samples,
        *,
        build: Any = None,
        training: Training | None = None,
    ) -> nn.Module:
        """A network of the bare recipe, seeded by how many were asked for before."""
        asked.append(None)
        bare = self._recipe.bare()
        recipe = bare if training is None else replace(bare, own=None, training=training)
        recipe = recipe if build is None else replace(recipe, build=build)
        return self._also(recipe, samples, streams.child(len(asked)).key)
