"""A model that rejects: what its detectors compare, read off while it answers, as one more output to bring down."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from robustsuite.core import losses
from robustsuite.core.deployed import Deployed
from robustsuite.core.intervals import median
from robustsuite.core.isolation import differentiable
from robustsuite.scenarios.evasion.sanity.probe import Look
from robustsuite.scenarios.evasion.sanity.straight_through import Passing
from robustsuite.scenarios.evasion.sanity.surrogates import bridged

_ENOUGH: Final = 0.2  # normalised margin beyond which only a rejection is left to bring down
_SLACK: Final = 0.1  # normalised distance from a threshold that is kept


class Joint(nn.Module):
    """Logits of a deployed model, and in one more column how far beyond a threshold its detectors are.

    Args:
        model: The deployed model.
        network: The network inside.
        classes: Number of classes.
        width: Over what change of its operands a comparison is smeared.
        chosen: Which comparisons reject, by order: (index, sign, scale).
    """

    def __init__(
        self,
        model: Deployed,
        network: nn.Module,
        classes: int,
        width: float,
        chosen: tuple[tuple[int, float, float], ...] = (),
    ) -> None:
        super().__init__()
        self.network, self.classes, self.width, self.chosen = network, classes, width, chosen
        self._model = model

    def forward(self, x: Tensor) -> Tensor:
        """`(N, classes + 1)`; the last column is positive where the input is rejected."""
        graph = x.requires_grad and torch.is_grad_enabled()
        logits, cuts, _ = self.seen(x)
        gaps = [sign * cuts[i][1] / scale for i, sign, scale in self.chosen if i < len(cuts)]
        worst = torch.stack(gaps).amax(0) if gaps else logits.new_zeros(len(x))
        answer = torch.cat([logits, worst[:, None].to(logits.dtype)], dim=1)
        return answer if graph else answer.detach()

    def loss(self, logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
        """What leads past both `(n,)`: the margin, up to enough of it, less how far beyond a threshold the input is."""
        return past(logits, y, target, classes=self.classes)

    def seen(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor]:
        """Logits, every comparison that gave one bool a sample, and what was rejected."""
        with differentiable():
            leaf = x if x.requires_grad else x.detach().clone().requires_grad_(True)
            with bridged(self.network, leaf), Passing(len(x), self.classes, self.width) as mode:
                logits, rejected = self._model(leaf)
        return logits, mode.cuts, rejected


def past(logits: Tensor, y: Tensor, target: Tensor | None = None, *, classes: int, weight: float = 1.0) -> Tensor:
    """What leads past a model and its detectors `(n,)`: the normalised margin, up to enough of it, less the rejection.

    Args:
        logits: As `Joint` gives them, `(n, classes + 1)`.
        y: Labels `(n,)`.
        target: Labels to reach `(n,)`, or None.
        classes: Number of classes.
        weight: Of the rejection.
    """
    scores, suspicion = logits[:, :classes], logits[:, classes]
    scale = scores.detach().std(1).clamp_min(1e-12)
    gained = (losses.margin(scores, y, target) / scale).clamp_max(_ENOUGH)
    return gained - weight * (suspicion + _SLACK).clamp_min(0)


def joint(look: Look, width: float) -> Joint | None:
    """The logits together with those comparisons that decide on rejection; None where none is seen.

    A comparison is one of them if no accepted input is on its other side. Inputs are looked at as they are and as a
    short attack on the logits alone leaves them, since those are what detectors are for.
    """
    bare = Joint(look.model, look.model.network, look.classes, width)
    x = torch.cat([look.x, look.climb(look.model.surrogate(), 10)])
    _, cuts, rejected = bare.seen(x)
    if not rejected.any():
        return None
    chosen = []
    for i, (decided, gap) in enumerate(cuts):
        signed = [s for s, side in ((1.0, decided), (-1.0, ~decided)) if not bool((side & ~rejected).any())]
        if signed and bool((decided if signed[0] > 0 else ~decided).any()):
            chosen.append((i, signed[0], max(median(gap.detach().abs()), 1e-12)))
    if not chosen:
        return None
    return Joint(look.model, look.model.network, look.classes, width, tuple(chosen))
