"""Scores that say how unlike ordinary inputs an input is; per sample, so that a batch never changes a decision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHUNK = 256  # rows at a time when distances to all calibration samples are taken


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
        self._head: nn.Linear | None = None
        self._scale = self._known = torch.empty(0)

    def calibrate(self, x: Tensor) -> Tensor:
        """Keep the features of `x`; the returned score of each leaves itself out."""
        self._head = _last_dense(self._network, x[:1])
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
        if self._head is None:
            logits: Tensor = self._network(x)
            return logits.flatten(1)
        seen: list[Tensor] = []
        with _watched(self._head, lambda inputs: seen.append(inputs.detach())):
            self._network(x)
        return seen[-1].flatten(1)


class FeatureSqueezing(Detector):
    """How far the answer moves when the input is squeezed: the greatest l1 distance between probabilities.

    Squeezers: fewer grey levels, and for images a median filter. The score lies in [0, 2].

    Args:
        network: Raw inputs to logits, in eval mode.
        bounds: Least and greatest input value.
        bit_depth: Bits that are kept, 1 to 8; None for 1 on inputs of one channel and 5 on colour.
        median_window: Side of the median filter, at least 1; 1 for none.

    References:
        Xu et al., NDSS 2018, arXiv:1704.01155.
    """

    def __init__(
        self, network: nn.Module, bounds: tuple[float, float], bit_depth: int | None, median_window: int
    ) -> None:
        self._network, self._bounds = network, bounds
        self._bits, self._window = bit_depth, median_window

    def calibrate(self, x: Tensor) -> Tensor:
        """Nothing is fitted; the scores of `x`."""
        return torch.cat([self.scores(part) for part in torch.split(x, _CHUNK)])

    def scores(self, x: Tensor) -> Tensor:
        """Greatest l1 distance between the probabilities of `x` and of each squeezed `x`."""
        plain = self._network(x).softmax(1)
        moved = [(self._network(squeezed).softmax(1) - plain).abs().sum(1) for squeezed in self._squeezed(x)]
        return torch.stack(moved).amax(0)

    def _squeezed(self, x: Tensor) -> Iterator[Tensor]:
        colour = x.dim() == 4 and x.shape[1] > 1
        yield fewer_levels(x, self._bounds, self._bits if self._bits is not None else (5 if colour else 1))
        if x.dim() in (3, 4) and self._window > 1 and min(x.shape[-2:]) >= self._window:
            yield median_filtered(x, self._window)


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


def _last_dense(network: nn.Module, x: Tensor) -> nn.Linear | None:
    """The dense layer that runs last on `x`."""
    ran: list[nn.Linear] = []

    def note(layer: nn.Linear) -> Callable[[Tensor], None]:
        return lambda _: ran.append(layer)

    layers = [part for part in network.modules() if isinstance(part, nn.Linear)]
    handles = [_watch(layer, note(layer)) for layer in layers]
    try:
        network(x)
    finally:
        for handle in handles:
            handle.remove()
    return ran[-1] if ran else None


def _watch(layer: nn.Module, look: Callable[[Tensor], None]) -> torch.utils.hooks.RemovableHandle:
    return layer.register_forward_pre_hook(lambda _, inputs: look(inputs[0]))


@contextmanager
def _watched(layer: nn.Module, look: Callable[[Tensor], None]) -> Iterator[None]:
    handle = _watch(layer, look)
    try:
        yield
    finally:
        handle.remove()
