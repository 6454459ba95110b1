"""A small convolutional network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from torch import nn

from robustsuite.core import checks
from robustsuite.models.network import dropped, image_shape, norm_or_none, optional_norm

_LARGEST_MAP: Final = 8  # maps are pooled until they fit, so that large images do not blow up the first dense layer


@dataclass(frozen=True, kw_only=True)
class CNN:
    """Two 5x5 convolutions (32, 64) and a dense layer of 100; 366,806 parameters on MNIST.

    Images from 4 x 4 on; beyond 32 x 32 the maps are pooled further until they are at most 8 x 8.

    Args:
        dropout: Share of dense units dropped in training, in [0, 1).
        norm: Of the convolutions' maps: `none`, `batch`, `group` or `layer`; the last two look at each image alone.
    """

    dropout: float = 0.0
    norm: str = "none"

    def __post_init__(self) -> None:
        norm_or_none(self.norm)
        checks.real("dropout", self.dropout, low=0.0, high=1.0, open_high=True)

    def __call__(self, classes: int, shape: tuple[int, ...]) -> nn.Module:
        """The body: normalised inputs to logits."""
        channels, height, width = image_shape("cnn", shape, 4)
        layers: list[nn.Module] = [
            nn.Conv2d(channels, 32, 5, padding=2),
            *optional_norm(self.norm, 32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            *optional_norm(self.norm, 64),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        height, width = height // 4, width // 4
        while max(height, width) > _LARGEST_MAP:
            window = (2 if height > _LARGEST_MAP else 1, 2 if width > _LARGEST_MAP else 1)
            layers.append(nn.MaxPool2d(window))
            height, width = height // window[0], width // window[1]
        layers += [nn.Flatten(), nn.Linear(64 * height * width, 100), nn.ReLU(), *dropped(self.dropout)]
        return nn.Sequential(*layers, nn.Linear(100, classes))
