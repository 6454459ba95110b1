"""Modules of published defences that looked strong and were not, around networks that they do not change."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Around(nn.Module):
    """A network with something before and after it; none of it says what it is.

    Args:
        network: Raw inputs to logits.
        before: Inputs to inputs.
        after: Logits to answers.
    """

    def __init__(
        self,
        network: nn.Module,
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network, self._before, self._after = network, before, after

    def forward(self, x: Tensor) -> Tensor:
        """Answers `(N, classes)`."""
        answer: Tensor = self.network(x if self._before is None else self._before(x))
        return answer if self._after is None else self._after(answer)


class Levels(nn.Module):
    """Round inputs in [0, 1] to 2^bits levels (Xu et al., NDSS 2018, arXiv:1704.01155)."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self._steps = 2**bits - 1

    def forward(self, x: Tensor) -> Tensor:
        """Rounded inputs."""
        levels: Tensor = (x * self._steps).round()
        rounded: Tensor = levels / self._steps
        return rounded


class Codec(nn.Module):
    """Compress and decompress by JPEG, outside of torch (Das et al., KDD 2018, arXiv:1802.06816)."""

    def __init__(self, quality: int) -> None:
        super().__init__()
        self._quality = quality

    def forward(self, x: Tensor) -> Tensor:
        """Decompressed images `(N, 1 or 3, H, W)` in [0, 1]."""
        import numpy as np

        grey = x.shape[1] == 1
        pixels = (x.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        decoded = np.stack([self._through(image[..., 0] if grey else image) for image in pixels])
        back = torch.from_numpy(decoded).to(x) / 255
        return back[:, None] if grey else back.permute(0, 3, 1, 2)

    def _through(self, image: Any) -> Any:
        import numpy as np
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=self._quality)
        file.seek(0)
        return np.asarray(Image.open(file))


def thermometer(x: Tensor, levels: int) -> Tensor:
    """Each value as `levels` bits, one for each level that it reaches (Buckman et al., ICLR 2018)."""
    return torch.cat([(x >= i / levels).to(x.dtype) for i in range(1, levels + 1)], dim=1)


class PrunedAtRandom(nn.Module):
    """Keep activations at random by their size (Dhillon et al., ICLR 2018, arXiv:1803.01442)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def forward(self, x: Tensor) -> Tensor:
        """Activations, those that are kept made up for."""
        flat = x.flatten(1)
        odds = flat.abs() / flat.abs().sum(1, keepdim=True).clamp_min(1e-9)
        kept = 1 - (1 - odds) ** max(1, int(self._share * flat.shape[1]))
        drawn = (torch.rand_like(flat) < kept).to(x.dtype)
        return (flat * drawn / kept.clamp_min(1e-6)).reshape(x.shape)


class DroppedAlways(nn.Module):
    """Dropout at test time (Feinman et al., 2017, arXiv:1703.00410)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def forward(self, x: Tensor) -> Tensor:
        """Activations, some dropped."""
        return F.dropout(x, self._share, training=True)


class WinnersTakeAll(nn.Module):
    """Keep the greatest activations of each sample (Xiao et al., ICLR 2020, arXiv:1905.10510)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def forward(self, x: Tensor) -> Tensor:
        """Activations, the others zero."""
        flat = x.flatten(1)
        least = flat.topk(max(1, int(self._share * flat.shape[1])), dim=1).values[:, -1:]
        return (flat * (flat >= least).to(x.dtype)).reshape(x.shape)


def resized_at_random(x: Tensor, least: float) -> Tensor:
    """Shrink to a random size and pad to the old one at a random place (Xie et al., ICLR 2018, arXiv:1711.01991)."""
    height, width = x.shape[-2:]
    low = max(1, round(least * min(height, width)))
    size = (int(torch.randint(low, height + 1, (1,))), int(torch.randint(low, width + 1, (1,))))
    small = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    top, left = int(torch.randint(0, height - size[0] + 1, (1,))), int(torch.randint(0, width - size[1] + 1, (1,)))
    return F.pad(small, (left, width - size[1] - left, top, height - size[0] - top))


class Members(nn.Module):
    """Several networks, trained by their mean loss of logits, that answer together.

    Args:
        networks: Raw inputs to logits each.
        way: `crossmax` (Fort and Lakshminarayanan, 2024, arXiv:2408.05446) or `probabilities` (their mean, as in
            Pang et al., ICML 2019, arXiv:1901.08846).
    """

    def __init__(self, networks: list[nn.Module], way: str) -> None:
        super().__init__()
        self.networks, self._way = nn.ModuleList(networks), way

    def forward(self, x: Tensor) -> Tensor:
        """Answers `(N, classes)`."""
        each = torch.stack([network(x) for network in self.networks])
        if self.training:
            mean: Tensor = each.mean(0)
            return mean
        if self._way == "probabilities":
            return each.softmax(2).mean(0).clamp_min(1e-30).log()
        each = each - each.amax(2, keepdim=True)
        each = each - each.amax(0, keepdim=True)
        return each.median(0).values


class Purified(nn.Module):
    """Move each input to where the network is surer before it is answered (as in Yoon et al., arXiv:2106.06041)."""

    def __init__(self, network: nn.Module, steps: int, size: float) -> None:
        super().__init__()
        self.network, self._steps, self._size = network, steps, size

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the moved inputs."""
        moved = x.detach().clone()
        for _ in range(self._steps):
            with torch.enable_grad():
                leaf = moved.requires_grad_(True)
                (slope,) = torch.autograd.grad(torch.logsumexp(self.network(leaf), 1).sum(), leaf)
            moved = (leaf + self._size * slope.sign()).clamp(0, 1).detach()
        answer: Tensor = self.network(moved)
        return answer
