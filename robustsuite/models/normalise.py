"""Normalisation as the first layer, so that a network takes raw inputs."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from robustsuite.core.samples import Samples

_ROWS = 4096


class Normalise(nn.Module):
    """`(x - mean) / std`, the identity until it is set.

    Statistics are per channel for images `(C, H, W)`, per feature for vectors `(D,)`, and one number for all else. They
    are buffers, so they are saved with the weights; those that came from a checkpoint (`loaded`) are kept when `fit` or
    `from_bounds` is called later, because the weights were trained on them.

    Args:
        shape: Shape of one input.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        size = (shape[0] if len(shape) in (1, 3) else 1, *([1] * (len(shape) - 1)))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.loaded = False

    def fit(self, samples: Samples) -> Self:
        """Set to the samples' mean and deviation; a channel that never varies is only shifted."""
        if self.loaded:
            return self
        axes = [0, *(i + 1 for i, side in enumerate(self.mean.shape) if side == 1)]
        mean = _mean(samples, axes, None)
        deviation = _mean(samples, axes, mean).sqrt()
        low, high = samples.bounds
        constant = deviation <= 1e-8 * (high - low)
        return self._set(mean[0], torch.where(constant, torch.ones_like(deviation), deviation)[0])

    def from_bounds(self, bounds: tuple[float, float]) -> Self:
        """Set so that inputs within `bounds` become [-1, 1]; looks at no data."""
        if self.loaded:
            return self
        low, high = bounds
        ones = torch.ones_like(self.mean)
        return self._set(ones * (low + high) / 2, ones * (high - low) / 2)

    def _set(self, mean: Tensor, std: Tensor) -> Self:
        self.mean.copy_(mean)
        self.std.copy_(std)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Normalised inputs `(N, …)`."""
        return (x - self.mean) / self.std


def _mean(samples: Samples, axes: list[int], centre: Tensor | None) -> Tensor:
    """Mean over `axes` in float64, of the values or, given a centre, of their squared distance to it."""
    total = torch.zeros(())
    for start in range(0, len(samples), _ROWS):
        x = samples.inputs(slice(start, start + _ROWS)).double()
        total = total + (x if centre is None else (x - centre) ** 2).sum(axes, keepdim=True)
    count = len(samples)
    for axis in axes[1:]:
        count *= samples.shape[axis - 1]
    return total / count
