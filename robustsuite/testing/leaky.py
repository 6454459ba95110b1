"""Networks on which no private training is valid: examples see each other, or something learns outside the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Each row less the mean of all."""
        return x - x.mean(0, keepdim=True)


class Neighbours(nn.Module):
    """Adds a little of the next example."""

    def forward(self, x: Tensor) -> Tensor:
        """Each row and a tenth of another."""
        return x + 0.1 * x.roll(1, 0)


class Attending(nn.Module):
    """Attends over the batch, as where axes are mistaken."""

    def forward(self, x: Tensor) -> Tensor:
        """Means of rows, weighted by how alike they are."""
        return torch.softmax(x @ x.t(), 1) @ x


class Tracking(nn.Module):
    """Keeps a running mean of what it sees in a buffer."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Each row less the mean so far."""
        if self.training:
            with torch.no_grad():
                self.seen.lerp_(x.detach().mean(), 0.5)
        return x - self.seen


class Remembering(nn.Module):
    """Keeps a running mean in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Each row less the mean so far."""
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * float(x.detach().mean())
        return x - self.mean


LEAKY: dict[str, Callable[[], nn.Module]] = {
    "centres the batch": Centred,
    "adds neighbours": Neighbours,
    "attends over the batch": Attending,
    "tracks a mean in a buffer": Tracking,
    "tracks a mean in an attribute": Remembering,
}


@dataclass(frozen=True)
class LeakyBuild:
    """Builds a small network around one of `LEAKY`."""

    layer: str = "centres the batch"
    name: str = "leaky"

    def __call__(self, classes: int, shape: tuple[int, ...], bounds: tuple[float, float]) -> nn.Module:  # noqa: ARG002
        """The network."""
        width = int(torch.Size(shape).numel())
        return nn.Sequential(nn.Flatten(), nn.Linear(width, 8), LEAKY[self.layer](), nn.ReLU(), nn.Linear(8, classes))
