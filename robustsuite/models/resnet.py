"""ResNet-18 for small images."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from robustsuite.core import checks
from robustsuite.models.network import Norm, dropped, image_shape


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = norm(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = norm(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), norm(out))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


@dataclass(frozen=True, kw_only=True)
class ResNet18:
    """ResNet-18 with a 3x3 stem and no pooling before the blocks; 11,173,962 parameters on CIFAR-10.

    Args:
        norm: `batch`, or `group` or `layer` for private training, which no other sample of the batch may influence.
        width: Channels of the first stage, at least 4.
        dropout: Share of the last features dropped in training, in [0, 1).

    References:
        He et al., CVPR 2016, arXiv:1512.03385.
    """

    norm: str = "batch"
    width: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        checks.real("dropout", self.dropout, low=0.0, high=1.0, open_high=True)
        Norm(self.norm)
        checks.integer("width", self.width, low=4)

    def __call__(self, classes: int, shape: tuple[int, ...]) -> nn.Module:
        """The body: normalised images to logits."""
        channels, _, _ = image_shape("resnet18", shape, 8)
        norm = Norm(self.norm)
        layers: list[nn.Module] = [
            nn.Conv2d(channels, self.width, 3, padding=1, bias=False),
            norm(self.width),
            nn.ReLU(),
        ]
        inner = self.width
        for stage in range(4):
            out = self.width * 2**stage
            layers += [_Block(inner, out, 1 if stage == 0 else 2, norm), _Block(out, out, 1, norm)]
            inner = out
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *dropped(self.dropout)]
        return nn.Sequential(*layers, nn.Linear(inner, classes))
