"""What inputs may have in common, and the nearest ones that keep it: values, zeros, constants, being off the bounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from robustsuite.core.rounding import inwards, on_grid

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_MOST: Final = 1024  # different values from which on inputs count as continuous; images of 8 bits have 256
_OFTEN: Final = 4  # times that a value occurs on average, at least, where inputs are not
_ZEROS: Final = 0.01  # share of coordinates at the least value, from which on they are something to keep


@dataclass(frozen=True, eq=False)
class Traits:
    """What adversarial inputs keep, so that a model that goes by it treats all of them alike.

    Args:
        levels: The values that inputs take, ascending `(m,)`; None for any.
        values: What these are called.
        lowest: The value at which coordinates stay; None for none.
        fixed: Coordinates that stay as they are, bool of one input's shape; None for none.
        inner: Least and greatest value, where these are not the bounds; None for none.
        dtype: What the network rounds its inputs to, where they are continuous.
    """

    levels: Tensor | None = None
    values: str = "the values"
    lowest: float | None = None
    fixed: Tensor | None = None
    inner: tuple[float, float] | None = None
    dtype: torch.dtype | None = None

    @property
    def name(self) -> str:
        """What is kept, in words."""
        kept = {
            self.values: self.levels is not None,
            "the zeros": self.lowest is not None,
            "the constant coordinates": self.fixed is not None,
            "off the bounds": self.inner is not None,
        }
        return " and ".join(words for words, on in kept.items() if on)

    def nearest(self, moved: Tensor, x: Tensor) -> Tensor:
        """The nearest inputs `(N, …)` to `moved` that keep what the clean `x` have."""
        if self.levels is not None:
            moved = self.levels[self._places(moved)]
        elif self.dtype is not None:
            moved = on_grid(moved, self.dtype)
        return self._held(moved, x)

    def inwards(self, moved: Tensor, x: Tensor) -> Tensor:
        """The same, no further from `x` than `moved` in any coordinate."""
        if self.levels is None:
            return self._held(moved if self.dtype is None else inwards(moved, x, self.dtype), x)
        places, own = self._places(moved), self._places(x)
        far = (self.levels[places].double() - x.double()).abs() > (moved.double() - x.double()).abs()
        return self._held(self.levels[places + far * (own - places).sign()], x)

    def _places(self, x: Tensor) -> Tensor:
        """Which level is the nearest to each value."""
        import torch

        levels = self.levels
        if levels is None:
            return torch.zeros_like(x, dtype=torch.int64)
        return torch.bucketize(x.contiguous(), (levels[1:] + levels[:-1]) / 2)

    def _held(self, moved: Tensor, x: Tensor) -> Tensor:
        import torch

        if self.inner is not None:
            moved = moved.clamp(*self.inner)
        if self.lowest is not None:
            moved = torch.where(x == self.lowest, x, moved)
        return moved if self.fixed is None else torch.where(self.fixed, x, moved)


Grid: TypeAlias = "torch.dtype | Traits"
"""What inputs are rounded to on their way to a model: the numbers of a dtype, or what they must keep."""


def traits_of(x: Tensor, low: float, dtype: torch.dtype | None = None) -> Iterator[Traits]:
    """What these inputs share, weakest first: their values, their zeros, and all of it with what is constant.

    Args:
        x: Clean inputs `(N, …)` as a model is given them.
        low: The least value that inputs may have.
        dtype: What the network rounds its inputs to; None where it computes as they are.
    """
    import torch

    levels, fixed = torch.unique(x), (x == x[:1]).all(0)
    few = 1 < len(levels) <= min(_MOST, x.numel() // _OFTEN)
    values = Traits(levels=levels) if few else Traits(dtype=dtype)
    if values.levels is not None:
        yield values
    zeros = replace(values, levels=None, lowest=low, dtype=dtype)
    if float((x == low).float().mean()) > _ZEROS:
        yield zeros
        if values.levels is not None:
            yield replace(zeros, levels=levels, fixed=fixed)
    elif fixed.any():
        yield replace(values, fixed=fixed)
