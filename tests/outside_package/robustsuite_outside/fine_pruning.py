"""Fine-pruning: take out the units that clean inputs leave idle, then train on clean data."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from robustsuite.core import checks, last_dense, penultimate
from robustsuite.plugins import register
from robustsuite.training import Context, Produced, Recipe


@register.defense("x-fine-pruning")
@dataclass(frozen=True, kw_only=True)
class FinePruning:
    """Prune the units before the last layer that trusted inputs leave idle, and fine-tune on these inputs.

    It costs a few epochs on few samples, and clean accuracy. It does not defend against a trigger whose units clean
    inputs use too.

    Args:
        share: Of the units, to be pruned, in [0, 1).
        epochs: Of fine-tuning, at least 0.
        lr: Of its gradient descent, above 0.

    References:
        Liu et al., RAID 2018, arXiv:1805.12185.
    """

    share: float = 0.5
    epochs: int = 20
    lr: float = 0.02

    def __post_init__(self) -> None:
        checks.real("share", self.share, low=0.0, high=1.0, open_high=True)
        checks.integer("epochs", self.epochs, low=0)
        checks.real("lr", self.lr, low=0.0, open_low=True)

    def __call__(self, recipe: Recipe) -> Recipe:
        """The recipe with a repair after its training."""
        return recipe.with_repair(Prune(rules=self))


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Prune and fine-tune.

    Args:
        rules: How.
    """

    needs = ("trusted",)
    rules: FinePruning

    def __call__(self, network: nn.Module, context: Context) -> Produced[nn.Module]:
        """The same network, repaired."""
        clean = context.part("trusted")
        x = clean.inputs().to(context.device)
        last = last_dense(network.eval(), x)
        if last is None:
            return Produced(network, {"pruned": 0})
        with torch.no_grad():
            used = penultimate(network, x).abs().mean(0)
            idle = used.argsort()[: round(self.rules.share * len(used))]
            last.weight[:, idle] = 0
        descent = torch.optim.SGD(network.parameters(), self.rules.lr, momentum=0.9)
        for epoch in range(self.rules.epochs):
            order = context.streams.child("epoch", epoch).permutation(len(clean))
            for batch in (clean.batch(rows, context.device) for rows in order.split(16)):
                descent.zero_grad()
                F.cross_entropy(network(batch.x), batch.y).backward()
                last.weight.grad[:, idle] = 0
                descent.step()
        return Produced(network, {"pruned": len(idle), "units": len(used)})
