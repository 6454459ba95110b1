"""Wide residual networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.core import checks
from robustsuite.models.network import Norm, image_shape


class _Block(nn.Module):
    """Normalise, activate, convolve, twice; beside a shortcut from the activated input."""

    def __init__(self, channels: int, out: int, stride: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.norm2 = norm(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.shortcut = None if channels == out else nn.Conv2d(channels, out, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norm1(x))
        inner: Tensor = self.conv2(self.dropout(F.relu(self.norm2(self.conv1(active)))))
        return inner + (x if self.shortcut is None else self.shortcut(active))


@dataclass(frozen=True, kw_only=True)
class WideResNet:
    """A wide residual network, by default WRN-16-4; WRN-28-10 has 36,479,194 parameters on CIFAR-10.

    Args:
        depth: Convolutions in all: 6 n + 4 for an n of at least 1.
        widen: Factor on the 16, 32 and 64 channels of the three stages, at least 1.
        norm: `batch`, or `group` or `layer` for private training.
        dropout: Share of each block's inner maps dropped in training, between its convolutions, in [0, 1).

    References:
        Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146.
    """

    depth: int = 16
    widen: int = 4
    norm: str = "batch"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        checks.real("dropout", self.dropout, low=0.0, high=1.0, open_high=True)
        checks.integer("depth", self.depth, low=10)
        if (self.depth - 4) % 6:
            raise checks.fail("a depth of 6 n + 4", "depth", self.depth, "choose 10, 16, 22, 28, 34 or 40")
        checks.integer("widen", self.widen, low=1)
        Norm(self.norm)

    def __call__(self, classes: int, shape: tuple[int, ...]) -> nn.Module:
        """The body: normalised images to logits."""
        channels, _, _ = image_shape("wide-resnet", shape, 8)
        norm = Norm(self.norm)
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1, bias=False)]
        inner = 16
        for stage in range(3):
            out = 16 * self.widen * 2**stage
            for block in range((self.depth - 4) // 6):
                layers.append(_Block(inner, out, 2 if stage > 0 and block == 0 else 1, norm, self.dropout))
                inner = out
        layers += [norm(inner), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, classes)]
        return nn.Sequential(*layers)
