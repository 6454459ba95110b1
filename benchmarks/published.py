"""MALT and PMA+ as their papers say, on the Auto-PGD of this suite: what `ensembles.py` compares `cascade` with."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from robustsuite.access import WhiteBox
from robustsuite.attacks.evasion.apgd import APGD
from robustsuite.attacks.evasion.autoattack import Stage, in_turn
from robustsuite.core.streams import Streams

_DUAL: Final = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
STEPS: Final = 100
TARGETS: Final = 9


@dataclass(frozen=True, kw_only=True)
class Malt(APGD):
    """Targeted Auto-PGD on the DLR loss, for the nearest classes if the network were linear.

    Of the `candidates` most likely wrong classes those come first whose logit lies least below that of the label, over
    the dual norm of the gradient of that difference.

    References:
        Melamed et al., NeurIPS 2024, arXiv:2407.02240 (100 candidates, 9 targets, 100 steps each).
    """

    steps: int = STEPS
    loss: str = "dlr"
    targets: int = TARGETS
    candidates: int = 100

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)`."""
        played = replace(self, targets=min(self.targets, view.classes - 1))
        return APGD.__call__(played, view, streams)

    def _aims(self, view: WhiteBox) -> Tensor:
        likely = view.logits(view.x).scatter(1, view.y[:, None], -math.inf)
        classes = likely.topk(min(self.candidates, view.classes - 1), dim=1).indices

        def gaps(logits: Tensor, rows: Tensor) -> Tensor:
            return logits.gather(1, view.y[rows, None]) - logits.gather(1, classes[rows])

        parts = []
        for rows in torch.arange(len(view.y)).split(32):  # a gradient of each candidate takes memory
            value, gradient, _ = view.jacobian(view.x[rows], rows, gaps)
            length = torch.linalg.vector_norm(gradient.flatten(2), ord=_DUAL[view.ball.norm], dim=2)
            nearest = (value / length.clamp_min(1e-30)).argsort(dim=1, stable=True)[:, : self.targets]
            parts.append(classes[rows].gather(1, nearest))
        return torch.cat(parts)


@dataclass(frozen=True)
class PMAPlus:
    """Auto-PGD on the margin of the probabilities, then targeted Auto-PGD on the DLR loss for the likeliest classes.

    References:
        Xie et al., 2024, arXiv:2411.15210 (PMA and APGD-T; 100 steps each, 9 targets).
    """

    def __call__(self, view: WhiteBox, streams: Streams) -> Tensor:
        """Adversarial inputs `(N, …)`."""
        targets = min(TARGETS, view.classes - 1)
        stages = [
            Stage("pma", APGD(steps=STEPS, loss="probability-margin")),
            Stage("apgd-t", APGD(steps=STEPS, loss="dlr", targets=targets)),
        ]
        return in_turn(view, stages, streams)
