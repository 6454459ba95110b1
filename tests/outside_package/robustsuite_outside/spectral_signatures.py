"""Spectral signatures: leave out the training samples that stand out in the features of their class."""

from dataclasses import dataclass

import torch

from robustsuite.core import Samples, checks, penultimate
from robustsuite.plugins import register
from robustsuite.training import Context, Produced, Recipe


@register.defense("x-spectral-signatures")
@dataclass(frozen=True, kw_only=True)
class SpectralSignatures:
    """Train, look for samples that stand out in the features of their class, leave them out, and train again.

    It costs a second training. It does not defend against poison whose features are those of its class.

    Args:
        share: Of each class, to be left out, in [0, 1): half as much again as may be poisoned of one class.

    References:
        Tran et al., NeurIPS 2018, arXiv:1811.00636.
    """

    share: float = 0.15

    def __post_init__(self) -> None:
        checks.real("share", self.share, low=0.0, high=1.0, open_high=True)

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with a filter before its training."""
        return recipe.with_prepare(Filter(rules=self))


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Score every sample along the first singular vector of its class, and leave out the highest.

    Args:
        rules: How.
    """

    rules: SpectralSignatures

    def __call__(self, samples: Samples, context: Context) -> Produced[Samples]:
        """The samples that are kept, and the scores of all."""
        network = context.train(samples)
        with torch.no_grad():
            seen = torch.cat([penultimate(network, b.x).cpu() for b in samples.batches(256, context.device)])
        scores, keep = torch.zeros(len(samples)), torch.ones(len(samples), dtype=torch.bool)
        for label in samples.y.unique():
            rows = (samples.y == label).nonzero()[:, 0]
            centred = seen[rows] - seen[rows].mean(0)
            first = torch.linalg.svd(centred, full_matrices=False).Vh[0]
            scores[rows] = (centred @ first).square()
            keep[rows[scores[rows].argsort(descending=True)[: round(self.rules.share * len(rows))]]] = False
        facts = {"removed": samples.ids[~keep].tolist()}
        return Produced(samples.take(keep), facts, ids=samples.ids, scores={"spectral score": scores})
