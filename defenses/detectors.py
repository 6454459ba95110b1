"""Scores that say how unlike ordinary inputs an input is; per sample, so that a batch never changes a decision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.core import penultimate

_CHUNK = 256  # rows at a time when distances to all calibration samples are taken
_MOST_BITS = 8
_KEPT = 0.95  # share of predictions that a squeezer must leave alone on ordinary inputs


class Detector(ABC):
    """A score for each input, greater for stranger ones, fitted on calibration inputs."""

    @abstractmethod
    def calibrate(self, x: Tensor) -> Tensor:
        """Fit to ordinary inputs `(M, …)`; returns the scores `(M,)` that fresh inputs like these would get."""

    @abstractmethod
    def scores(self, x: Tensor) -> Tensor:
        """Scores `(N,)` of inputs `(N, …)`."""


class FeatureDistance(Detector):
    """Distance to the k-th nearest calibration sample among the features before the last dense layer.

    Each feature is scaled by its deviation over the calibration samples. Without a dense layer the logits are the
    features.

    Args:
        network: Raw inputs to logits, in eval mode.
        neighbours: k, at least 1 and below the number of calibration samples.

    References:
        Sun et al., ICML 2022, arXiv:2204.06507.
    """

    def __init__(self, network: nn.Module, neighbours: int) -> None:
        self._network, self._k = network, neighbours
        self._scale = self._known = torch.empty(0)

    def calibrate(self, x: Tensor) -> Tensor:
        """Keep the features of `x`; the returned score of each leaves itself out."""
        features = torch.cat([self._features(part) for part in torch.split(x, _CHUNK)])
        deviation = features.std(0)
        self._scale = torch.where(deviation > 1e-6 * deviation.max().clamp_min(1e-30), deviation, deviation.max())
        self._known = features / self._scale
        return self._distance(self._known, self._k + 1)

    def scores(self, x: Tensor) -> Tensor:
        """Distances to the k-th nearest calibration sample."""
        return self._distance(self._features(x) / self._scale, self._k)

    def _distance(self, features: Tensor, rank: int) -> Tensor:
        # Differences, not the expansion of the square, whose rounding depends on the batch.
        parts = [
            torch.cdist(part, self._known, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(rank, dim=1).values
            for part in torch.split(features, _CHUNK)
        ]
        return torch.cat(parts) if parts else features.new_zeros(0)

    def _features(self, x: Tensor) -> Tensor:
        return penultimate(self._network, x).detach()


class FeatureSqueezing(Detector):
    """How far the answer moves when the input is squeezed: the greatest l1 distance between probabilities, in [0, 2].

    Squeezers: fewer grey levels, and for images a median filter. A squeezer that changes the predictions of ordinary
    inputs says nothing about strange ones, so what is left open is chosen at calibration: the fewest bits, and the
    filter at all, under which at least 95 % of the predictions stay.

    Args:
        network: Raw inputs to logits, in eval mode.
        bounds: Least and greatest input value.
        bit_depth: Bits that are kept, 1 to 8; None to choose.
        median_window: Side of the median filter, at least 1, 1 for none; None for 2 where it keeps the predictions.

    References:
        Xu et al., NDSS 2018, arXiv:1704.01155.
    """

    def __init__(
        self, network: nn.Module, bounds: tuple[float, float], bit_depth: int | None, median_window: int | None
    ) -> None:
        self._network, self._bounds = network, bounds
        self.bits, self.window = bit_depth or _MOST_BITS, median_window or 1
        self._open = (bit_depth is None, median_window is None)

    def calibrate(self, x: Tensor) -> Tensor:
        """Choose the squeezers that were left open; the scores of `x`."""
        choose_bits, choose_window = self._open
        if choose_bits:
            kept = (
                b for b in range(1, _MOST_BITS) if self._keeps(x, partial(fewer_levels, bounds=self._bounds, bits=b))
            )
            self.bits = next(kept, _MOST_BITS)
        if choose_window and _is_image(x, 2) and self._keeps(x, partial(median_filtered, window=2)):
            self.window = 2
        return torch.cat([self.scores(part) for part in torch.split(x, _CHUNK)])

    def scores(self, x: Tensor) -> Tensor:
        """Greatest l1 distance between the probabilities of `x` and of each squeezed `x`."""
        plain = self._network(x).softmax(1)
        squeezed = [fewer_levels(x, self._bounds, self.bits)]
        if self.window > 1 and _is_image(x, self.window):
            squeezed.append(median_filtered(x, self.window))
        return torch.stack([(self._network(s).softmax(1) - plain).abs().sum(1) for s in squeezed]).amax(0)

    def _keeps(self, x: Tensor, squeeze: Callable[[Tensor], Tensor]) -> bool:
        same = [self._network(p).argmax(1) == self._network(squeeze(p)).argmax(1) for p in torch.split(x, _CHUNK)]
        return float(torch.cat(same).float().mean()) >= _KEPT


def _is_image(x: Tensor, side: int) -> bool:
    return x.dim() in (3, 4) and min(x.shape[-2:]) >= side


def fewer_levels(x: Tensor, bounds: tuple[float, float], bits: int) -> Tensor:
    """Round inputs to 2^bits evenly spaced levels between the bounds.

    Example:
        >>> fewer_levels(torch.tensor([0.2, 0.7]), (0.0, 1.0), 1)
        tensor([0., 1.])
    """
    low, high = bounds
    steps = 2**bits - 1
    rounded: Tensor = ((x - low) / (high - low) * steps).round() / steps
    return rounded * (high - low) + low


def median_filtered(x: Tensor, window: int) -> Tensor:
    """Median over a square window that ends at each pixel (the upper one of an even number), edges repeated.

    Args:
        x: Images `(N, H, W)` or `(N, C, H, W)`.
        window: Side of the square, at least 1.
    """
    images = x if x.dim() == 4 else x[:, None]
    before, after = window // 2, (window - 1) // 2
    padded = F.pad(images, (before, after, before, after), mode="replicate")
    patches = padded.unfold(2, window, 1).unfold(3, window, 1).flatten(-2)
    filtered = patches.sort(-1).values[..., window * window // 2]
    return filtered if x.dim() == 4 else filtered[:, 0]
