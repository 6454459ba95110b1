"""The convolutional network of Opacus's MNIST tutorial."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from robustsuite.core import checks
from robustsuite.models.network import ACTIVATIONS, image_shape


@dataclass(frozen=True, kw_only=True)
class DPCNN:
    """A narrow network for private training; 26,010 parameters on MNIST.

    Args:
        activation: `relu`, or `tanh`, whose bounded values suit clipped gradients.

    References:
        Papernot et al., Tempered sigmoid activations, AAAI 2021, arXiv:2007.14191.
    """

    activation: str = "relu"

    def __post_init__(self) -> None:
        checks.one_of("activation", self.activation, ACTIVATIONS)

    def __call__(self, classes: int, shape: tuple[int, ...]) -> nn.Module:
        """The body: normalised inputs to logits, for images from 14 x 14 on."""
        channels, height, width = image_shape("dp-cnn", shape, 14)
        sides = [_side(side) for side in (height, width)]
        act = ACTIVATIONS[self.activation]
        return nn.Sequential(
            nn.Conv2d(channels, 16, 8, stride=2, padding=3),
            act(),
            nn.MaxPool2d(2, 1),
            nn.Conv2d(16, 32, 4, stride=2),
            act(),
            nn.MaxPool2d(2, 1),
            nn.Flatten(),
            nn.Linear(32 * sides[0] * sides[1], 32),
            act(),
            nn.Linear(32, classes),
        )


def _side(side: int) -> int:
    """What the two convolutions and poolings leave of a height or width."""
    pooled = (side + 2 * 3 - 8) // 2 + 1 - 1
    return (pooled - 4) // 2 + 1 - 1
