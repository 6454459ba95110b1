"""The convolutional network of Opacus's MNIST tutorial."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from robustsuite.core import checks
from robustsuite.models.network import ACTIVATIONS, dropped, image_shape, norm_or_none, optional_norm


@dataclass(frozen=True, kw_only=True)
class DPCNN:
    """A narrow network for private training; 26,010 parameters on MNIST.

    Args:
        activation: `relu`, or `tanh`, whose bounded values suit clipped gradients.
        dropout: Share of dense units dropped in training, in [0, 1).
        norm: Of the convolutions' maps: `none`, `group` or `layer`; none that looks at the batch.

    References:
        Papernot et al., Tempered sigmoid activations, AAAI 2021, arXiv:2007.14191.
    """

    activation: str = "relu"
    dropout: float = 0.0
    norm: str = "none"

    def __post_init__(self) -> None:
        checks.real("dropout", self.dropout, low=0.0, high=1.0, open_high=True)
        norm_or_none(self.norm, among=("group", "layer"))
        checks.one_of("activation", self.activation, ACTIVATIONS)

    def __call__(self, classes: int, shape: tuple[int, ...]) -> nn.Module:
        """The body: normalised inputs to logits, for images from 14 x 14 on."""
        channels, height, width = image_shape("dp-cnn", shape, 14)
        sides = [_side(side) for side in (height, width)]
        act = ACTIVATIONS[self.activation]
        return nn.Sequential(
            nn.Conv2d(channels, 16, 8, stride=2, padding=3),
            *optional_norm(self.norm, 16),
            act(),
            nn.MaxPool2d(2, 1),
            nn.Conv2d(16, 32, 4, stride=2),
            *optional_norm(self.norm, 32),
            act(),
            nn.MaxPool2d(2, 1),
            nn.Flatten(),
            nn.Linear(32 * sides[0] * sides[1], 32),
            act(),
            *dropped(self.dropout),
            nn.Linear(32, classes),
        )


def _side(side: int) -> int:
    """What the two convolutions and poolings leave of a height or width."""
    pooled = (side + 2 * 3 - 8) // 2 + 1 - 1
    return (pooled - 4) // 2 + 1 - 1
