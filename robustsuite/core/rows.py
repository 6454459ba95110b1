"""One value for each input of a batch, in the shape in which it meets the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Values `(n,)` as `(n, 1, …)`, one for each input of `like (n, …)`."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
