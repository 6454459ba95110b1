"""BadNets: a bright patch in a corner, and the label that it should bring about."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustsuite.core import Samples, Streams, checks
from robustsuite.plugins import register
from robustsuite.scenarios.poisoning import Poison, Stamp, TrainingSet
from robustsuite.scenarios.protocol import Terms


@register.attack(
    "badnets", scenario="poisoning", access="training-set", taxonomy=("AML.T0020", "ML02:2023", "NISTAML.023")
)
@dataclass(frozen=True, kw_only=True)
class BadNets:
    """Stamp a patch on training images of other classes and label them as the target.

    Args:
        target: The class that the trigger should bring about, at least 0.
        size: Side of the patch in pixels, at least 1.
        margin: Distance of the patch from the lower right corner in pixels, at least 0.

    References:
        Gu et al., 2017, arXiv:1708.06733.
    """

    target: int = 0
    size: int = 3
    margin: int = 0

    def __post_init__(self) -> None:
        checks.integer("target", self.target, low=0)
        checks.integer("size", self.size, low=1)
        checks.integer("margin", self.margin, low=0)

    def check(self, terms: Terms) -> None:
        """Refuse a class that there is not, what is no image, a patch beyond its edge, and a set of one class only."""
        checks.integer("target", self.target, low=0, high=terms.classes - 1)
        if len(terms.shape) != 3:
            remedy = "choose label-flip, which needs no image"
            raise checks.fail("images (channels, height, width) for a patch", "shape", terms.shape, remedy)
        side = min(terms.shape[1:])
        if side < self.size + self.margin:
            expected = (
                f"a patch of at most {side} pixels a side with its margin of {self.margin}, on inputs {terms.shape}"
            )
            raise checks.fail(expected, "size", self.size, "make the patch smaller")
        if terms.counts and sum(terms.counts) == terms.counts[self.target]:
            raise checks.fail("training samples of other classes", "target", self.target, "choose another class")

    def __call__(self, view: TrainingSet, streams: Streams) -> Poison:
        """Choose rows of other classes at random, stamp and relabel them."""
        samples = view.samples
        self.check(Terms("poisoning", samples.classes, samples.shape, samples.bounds))
        rows = (samples.y != self.target).nonzero()[:, 0]
        index = rows[streams.child("rows").permutation(len(rows))[: view.budget]].sort().values
        trigger = self._patch(samples)
        labels = samples.y[index].clone().fill_(self.target)
        return Poison(index, trigger(samples.inputs(index)), labels, trigger, self.target)

    def _patch(self, samples: Samples) -> Stamp:
        """A square of the greatest input value in the lower right corner."""
        height, width = samples.shape[-2:]
        rows = slice(height - self.margin - self.size, height - self.margin)
        columns = slice(width - self.margin - self.size, width - self.margin)
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[rows, columns] = True
        return Stamp(mask, torch.tensor(samples.bounds[1], dtype=torch.float64))
