"""Label flips: wrong labels on untouched inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robustsuite.core import Streams, checks
from robustsuite.plugins import register
from robustsuite.scenarios.poisoning import Poison, TrainingSet
from robustsuite.scenarios.protocol import Terms


@register.attack(
    "label-flip", scenario="poisoning", access="training-set", taxonomy=("AML.T0020", "ML02:2023", "NISTAML.013")
)
@dataclass(frozen=True, kw_only=True)
class LabelFlip:
    """Give as many training samples as the budget allows a wrong label.

    Args:
        source: Flip only samples of this class; None flips samples of every class.
        target: The wrong label; None draws one of the other classes for each sample.

    References:
        Biggio et al., ICML 2012, arXiv:1206.6389.
    """

    source: int | None = None
    target: int | None = None

    def __post_init__(self) -> None:
        if self.source is not None and self.source == self.target:
            raise checks.fail("a target other than the source", "target", self.target, "choose another class")

    def check(self, terms: Terms) -> None:
        """Refuse classes that there are not, and a choice of them that leaves nothing to flip."""
        for name in ("source", "target"):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), low=0, high=terms.classes - 1)
        if not terms.counts:
            return
        if self.source is not None and terms.counts[self.source] == 0:
            raise checks.fail("a class with training samples", "source", self.source, "choose another class")
        if self.target is not None and terms.counts[self.target] == sum(terms.counts):
            raise checks.fail("training samples of other classes", "target", self.target, "choose another class")

    def __call__(self, view: TrainingSet, streams: Streams) -> Poison:
        """Choose rows at random and flip them."""
        samples = view.samples
        self.check(Terms("poisoning", samples.classes, samples.shape, samples.bounds))
        y = samples.y
        allowed = torch.ones_like(y, dtype=torch.bool) if self.source is None else y == self.source
        if self.target is not None:
            allowed &= y != self.target
        rows = allowed.nonzero()[:, 0]
        index = rows[streams.child("rows").permutation(len(rows))[: view.budget]].sort().values
        if self.target is not None:
            labels = torch.full_like(index, self.target)
        else:
            shift = 1 + streams.child("labels").integers(samples.ids[index], samples.classes - 1)
            labels = (y[index] + shift) % samples.classes
        return Poison(index, samples.inputs(index), labels)
