"""What the transfer kin of MI-FGSM do to inputs and gradients, as pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustsuite.core import Streams

_SPREAD = 3.0  # standard deviations from the centre of a kernel to its edge


def gaussian_kernel(width: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights `(width, width)` that sum to 1, of a Gaussian whose edge lies three standard deviations out.

    References:
        Dong et al., CVPR 2019, arXiv:1904.02884.
    """
    place = torch.linspace(-_SPREAD, _SPREAD, width, dtype=torch.float64) if width > 1 else torch.zeros(1).double()
    bell = torch.exp(-place.square() / 2)
    weights = torch.outer(bell, bell)
    return (weights / weights.sum()).to(dtype)


def smoothed(gradient: Tensor, width: int) -> Tensor:
    """Gradients of images `(n, C, H, W)`, each channel convolved with the kernel: those of shifted images, averaged."""
    channels = gradient.shape[1]
    kernel = gaussian_kernel(width, dtype=gradient.dtype).to(gradient.device).expand(channels, 1, width, width)
    return F.conv2d(gradient, kernel, padding=width // 2, groups=channels)


def resized(x: Tensor, share: Tensor, place: Tensor) -> Tensor:
    """Images `(n, C, H, W)` shrunk and put somewhere on black (0), each in its own way.

    Args:
        x: The images.
        share: Side of the shrunk image as a share of the old one `(n,)`, in (0, 1].
        place: Where it lies in the room that is left `(n, 2)`, vertically and horizontally, each in [0, 1].
    """
    centre = (place * 2 - 1) * (1 - share)[:, None]
    matrix = x.new_zeros(len(x), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / share
    matrix[:, 0, 2], matrix[:, 1, 2] = -centre[:, 1] / share, -centre[:, 0] / share
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def diversified(x: Tensor, ids: Tensor, streams: Streams, *, probability: float, least: float) -> Tensor:
    """Each image, with this probability, shrunk to between `least` and all of its side and put at a random place.

    The draws are keyed by sample id.

    References:
        Xie et al., CVPR 2019, arXiv:1803.06978.
    """
    side = x.shape[-2]
    smallest = max(1, round(least * side))
    share = (smallest + streams.child("side").integers(ids, side - smallest + 1)).to(x.dtype) / side
    place = streams.child("place").uniform(ids, (2,), dtype=x.dtype)
    chosen = streams.child("coin").uniform(ids, (1,), dtype=x.dtype)[:, 0] < probability
    return torch.where(chosen[:, None, None, None], resized(x, share, place), x)
