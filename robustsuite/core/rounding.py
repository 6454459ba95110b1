"""The numbers that a network of another dtype has: the nearest ones, and the next ones towards a centre."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def on_grid(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest numbers of another dtype, in the dtype of `x`."""
    return x.to(dtype).to(x.dtype) if dtype.is_floating_point else x.round()


def inwards(moved: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers of a dtype that are nearest to `moved` and no further from `x`, coordinate by coordinate.

    Args:
        moved: Inputs `(N, …)`.
        x: Centres `(N, …)`, numbers of that dtype.
        dtype: A floating one, or one of integers.
    """
    import torch

    nearest = on_grid(moved, dtype)
    far = (nearest.double() - x.double()).abs() > (moved.double() - x.double()).abs()
    if dtype.is_floating_point:
        inner = torch.nextafter(nearest.to(dtype), x.to(dtype)).to(x.dtype)
    else:
        inner = nearest + (x - nearest).sign()
    return torch.where(far, inner, nearest)
