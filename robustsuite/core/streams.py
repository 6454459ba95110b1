"""Random numbers by counter: the same (seed, path, sample id, draw) gives the same bits in any batch, on any device.

A keyed mixing function (the finaliser of SplitMix64, Steele et al., OOPSLA 2014) is applied to the counter, so nothing
is stateful and batch size, order and resumption cannot change a draw. For statistics, not for cryptography.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_A = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MIX_B = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # int64 shifts are arithmetic; the mask makes this one logical


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_A
    x = (x ^ _shift_right(x, 27)) * _MIX_B
    return x ^ _shift_right(x, 31)


def mixed(values: Tensor) -> Tensor:
    """One key for each row of integers, to draw by what a sample holds where it has no id.

    Args:
        values: int64 `(N, k)`.

    Returns:
        int64 `(N,)`; rows that differ have keys that differ, but for one pair in 2^64.
    """
    places = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=torch.int64) * _GOLDEN
    return _mix(_mix(values.to(torch.int64) * _MIX_B + places[None, :]).sum(1))


@dataclass(frozen=True)
class Streams:
    """A tree of random streams; each draw is a pure function of its key.

    Args:
        seed: Any integer.
        path: Names that separate this stream from its siblings; extend it with `child`.

    Example:
        >>> s = Streams(0).child("start")
        >>> both = s.uniform(torch.tensor([3, 8]), (2,))
        >>> torch.equal(both[1:], s.uniform(torch.tensor([8]), (2,)))
        True
    """

    seed: int
    path: tuple[str, ...] = ()

    def child(self, *names: str | int) -> Streams:
        """A stream independent of this one and of its other children."""
        return Streams(self.seed, self.path + tuple(str(name) for name in names))

    @property
    def key(self) -> int:
        """63 bits that identify this stream."""
        text = "\x1f".join((str(self.seed), *self.path))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1

    def generator(self) -> torch.Generator:
        """A torch generator for draws over a whole set (permutations, weights)."""
        return torch.Generator().manual_seed(self.key)

    def bits(self, ids: Tensor, shape: Sequence[int]) -> Tensor:
        """64 random bits per element.

        Args:
            ids: Sample ids `(N,)`, int64.
            shape: Shape of one sample's draw.

        Returns:
            int64 `(N, *shape)` on the device of `ids`.
        """
        rows = _mix(ids.to(torch.int64) * _GOLDEN + self.key)
        columns = torch.arange(1, math.prod(shape) + 1, device=ids.device, dtype=torch.int64) * _GOLDEN
        return _mix(_mix(rows[:, None] + columns[None, :])).reshape(len(ids), *shape)

    def uniform(self, ids: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform draws in [0, 1) of shape `(N, *shape)`, with 24 bits (53 for float64)."""
        if dtype == torch.float64:
            return _shift_right(self.bits(ids, shape), 11).to(torch.float64) * 2.0**-53
        return (_shift_right(self.bits(ids, shape), 40).to(torch.float32) * 2.0**-24).to(dtype)

    def normal(self, ids: Tensor, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal draws of shape `(N, *shape)` (Box and Muller, 1958)."""
        radius = (-2.0 * torch.log1p(-self.child("radius").uniform(ids, shape, dtype=torch.float64))).sqrt()
        angle = 2.0 * math.pi * self.child("angle").uniform(ids, shape, dtype=torch.float64)
        return (radius * torch.cos(angle)).to(dtype)

    def integers(self, ids: Tensor, high: int) -> Tensor:
        """One integer in [0, high) per sample id, shape `(N,)`."""
        return (self.uniform(ids, (1,), dtype=torch.float64)[:, 0] * high).to(torch.int64)

    def permutation(self, n: int) -> Tensor:
        """A permutation of `range(n)`."""
        return torch.randperm(n, generator=self.generator())
