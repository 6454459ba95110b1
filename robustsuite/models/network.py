"""A network that takes raw inputs: normalisation, then a body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from robustsuite.core import checks
from robustsuite.models.normalise import Normalise


class Network(nn.Module):
    """Raw inputs to logits.

    Args:
        normalise: First layer.
        body: From normalised inputs to logits.
    """

    def __init__(self, normalise: Normalise, body: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, classes)`."""
        logits: Tensor = self.body(self.normalise(x))
        return logits


ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def image_shape(net: str, shape: tuple[int, ...], least: int) -> tuple[int, int, int]:
    """`shape` as (channels, height, width).

    Args:
        net: Name of the network, for errors.
        shape: Shape of one input.
        least: Smallest height and width that the network can take.

    Raises:
        RequestError: No image, or one that is too small.
    """
    if len(shape) != 3:
        raise checks.fail(f"images (channels, height, width) for {net}", "shape", shape, "reshape them, or choose mlp")
    channels, height, width = shape
    if min(height, width) < least:
        remedy = "choose cnn, mlp or logistic, or enlarge the images"
        raise checks.fail(f"images of at least {least} x {least} for {net}", "shape", shape, remedy)
    return channels, height, width


NORMS: Final = ("batch", "group", "layer")


def optional_norm(name: str, channels: int, *, maps: bool = True) -> list[nn.Module]:
    """The normalisation layer of this name; none for `none`."""
    return [] if name == "none" else [Norm(name, maps)(channels)]


def norm_or_none(name: str, *, among: tuple[str, ...] = NORMS) -> None:
    """Refuse a name that is neither `none` nor a normalisation.

    Raises:
        RequestError: It is not.
    """
    checks.one_of("norm", name, ("none", *among))


def dropped(share: float) -> list[nn.Module]:
    """Dropout of this share; no layer for 0."""
    return [nn.Dropout(share)] if share > 0 else []


@dataclass(frozen=True)
class Norm:
    """A normalisation layer by name.

    Args:
        name: `batch`, `layer` (one group of all channels), or `group`: 16 groups, and fewer where they would hold
            fewer than 4 channels, so that none of them is erased on maps of one pixel.
        maps: Whether channels are maps, or the units of a dense layer.
    """

    name: str
    maps: bool = True

    def __post_init__(self) -> None:
        checks.one_of("norm", self.name, NORMS)

    def __call__(self, channels: int) -> nn.Module:
        """The layer for this many channels."""
        if self.name == "batch":
            return nn.BatchNorm2d(channels) if self.maps else nn.BatchNorm1d(channels)
        if self.name == "layer":
            return nn.GroupNorm(1, channels)
        groups = max(g for g in range(1, 17) if channels % g == 0 and (g == 1 or channels // g >= 4))
        return nn.GroupNorm(groups, channels)
