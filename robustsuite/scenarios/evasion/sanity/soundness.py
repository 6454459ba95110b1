"""Does a gradient say anything about the deployed model? Then what it does not break is robust."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from robustsuite.core import losses
from robustsuite.core.intervals import median
from robustsuite.core.suspicions import Suspicion
from robustsuite.core.traits import Traits
from robustsuite.scenarios.evasion.sanity.boundary import EXPLAINED, UNEXPLAINED, crossed, crossed_uphill
from robustsuite.scenarios.evasion.sanity.probe import Look

_FEW: Final = 16  # samples that are looked at
_STEPS: Final = 20  # of a climb without a limit on the distance
_LED: Final = 0.75  # share of samples for which it must hold
_STEP: Final = 0.5  # of the radius, over which a change is predicted
_SHOWN: Final = 0.3  # of the predicted change, that the deployed margin must show
_WAY: Final = (0.55, 1.8)  # of the way to the boundary, that gradients explain: straight-through .7 to .96, decoys 0
# Suspicions under which scores say nothing.
_BY_LABELS: Final = frozenset({Suspicion.JUMP_AT_BOUNDARY, Suspicion.JUMP_AT_CLEAN, Suspicion.DEPENDS_ON_AUTOGRAD})


def is_sound(look: Look, module: nn.Module, causes: frozenset[Suspicion]) -> bool:
    """Whether this module leads where the deployed model's answers change.

    It must predict how the deployed margin changes, or break most samples without a limit on the distance; where the
    scores themselves are in doubt, its gradients must also explain the way to other classes.

    Args:
        look: Samples; those that are not broken, where there are any.
        module: Raw inputs to logits.
        causes: The suspicions that are to be resolved.
    """
    look = look.take(slice(0, _FEW))
    if look.random:
        return True  # a verdict by majority, whose margins say nothing after so few draws
    if causes & _BY_LABELS and not _explains(look, module, causes):
        return False
    return _predicts(look, module) or _breaks_far_away(look, module)


def _explains(look: Look, module: nn.Module, causes: frozenset[Suspicion]) -> bool:
    """Whether its gradients explain how answers get from clean inputs to others: to other classes, and uphill.

    What passes over steps, for there was no gradient, explains the way uphill but roughly: past one bit .6 to 6 of it.
    """
    look = look if not isinstance(look.grid, Traits) else replace(look, grid=look.grid.dtype)
    crossing = crossed(look)
    if crossing is None or not _WAY[0] < median(crossing.explained(module)) < _WAY[1]:
        return False
    uphill = None if Suspicion.ZERO_GRADIENTS in causes else crossed_uphill(look, module)
    return uphill is None or uphill.unexplained(module, EXPLAINED) <= UNEXPLAINED


def _predicts(look: Look, module: nn.Module) -> bool:
    slope = look.slope(module, look.x).nan_to_num(0.0, 0.0, 0.0)
    moved = look.ball.project(look.ball.step(look.x, slope, _STEP * look.ball.radius, share=0.05), look.x)
    predicted = _relative(_margins(look, module, moved), _margins(look, module, look.x))
    shown = _relative(look.margin(moved), look.margin(look.x))
    return float(((predicted > 0) & (shown > _SHOWN * predicted)).float().mean()) >= _LED


def _margins(look: Look, module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits = module(look.given(x))[:, : look.classes]
    return losses.margin(logits.double(), look.y, look.target)


def _relative(moved: Tensor, clean: Tensor) -> Tensor:
    return (moved - clean) / clean.abs().clamp_min(1e-12)


def _breaks_far_away(look: Look, module: nn.Module) -> bool:
    bounds = look.ball.bounds
    if bounds is None:
        return False
    wide = replace(look, ball=look.ball.everywhere(tuple(look.x.shape[1:]), bounds))
    return float((look.margin(wide.climb(module, _STEPS)) > 0).float().mean()) >= _LED
