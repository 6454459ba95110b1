"""Weights that are not fresh: two builds under two seeds agree where weights were loaded."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from robustsuite.models.digest import plain_attributes

_ENOUGH: Final = 64  # numbers in a tensor from which on a correlation says something: by chance .9 is 7 deviations off
_CORRELATED: Final = 0.9


def not_fresh(one: nn.Module, other: nn.Module, shape: tuple[int, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What two networks have in common that were built alike under two seeds.

    Constants that everybody starts from (all finite numbers equal, the identity) are passed over, and so are integers.
    Weights that were loaded and then disturbed a little are found by their correlation.

    Args:
        one: A network.
        other: Built by the same recipe under another seed.
        shape: Of one input.

    Returns:
        Names of weights and of larger constants, which may have been trained; and of constants with at most one number
        per channel, which are given by hand as a rule.
    """
    weights, others = _tensors(one), _tensors(other)
    common = [
        name for name, value in weights.items() if name in others and not _fixed(value) and _near(value, others[name])
    ]
    small = {name for name in common if name not in dict(one.named_parameters()) and weights[name].numel() <= shape[0]}
    return tuple(name for name in common if name not in small), tuple(name for name in common if name in small)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Floating parameters, buffers and attributes by name."""
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for place, module in network.named_modules():
        for name, value in plain_attributes(module).items():
            if isinstance(value, Tensor):
                held[f"{place}.{name}".lstrip(".")] = value
    return {name: value.detach() for name, value in held.items() if value.is_floating_point()}


def _fixed(value: Tensor) -> bool:
    """Whether these are a start that no training leads to: one number everywhere, or the identity."""
    finite = value[value.isfinite()]
    if finite.numel() == 0 or bool((finite == finite[0]).all()):
        return True
    if value.dim() < 2:
        return False
    kernels = value.flatten(2) if value.dim() > 2 else value[:, :, None]
    middle = kernels[:, :, kernels.shape[2] // 2]  # where `dirac_` has its ones
    return torch.equal(middle, torch.eye(*middle.shape).to(middle)) and bool(kernels.abs().sum() == middle.sum())


def _near(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if torch.equal(one, other):
        return True
    if one.numel() < _ENOUGH:
        return False
    pair = torch.stack([one.flatten(), other.flatten()]).double()
    found = float(torch.corrcoef(pair)[0, 1])
    return math.isfinite(found) and found > _CORRELATED
