"""Test inputs that are training inputs as well."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final
from weakref import WeakKeyDictionary

import torch

from robustsuite.core.samples import Samples

_CHUNK: Final = 4096  # rows in memory at a time
_KNOWN: Final[WeakKeyDictionary[Samples, dict[bool, frozenset[bytes]]]] = WeakKeyDictionary()
"""Digests of training inputs, for a suite asks once for each defence and repeat."""


def shared_inputs(test: Samples, train: Samples) -> int:
    """How many test inputs are training inputs as well, bit for bit; labels are not compared.

    Inputs that are stored alike are compared as they are stored, others as float32.
    """
    if test.shape != train.shape:
        return 0
    stored = test.x.dtype == train.x.dtype and test.bounds == train.bounds
    known = _KNOWN.setdefault(train, {})
    if stored not in known:
        known[stored] = frozenset(_digests(train, stored))
    return sum(row in known[stored] for row in _digests(test, stored))


def _digests(samples: Samples, stored: bool) -> Iterator[bytes]:
    for start in range(0, len(samples), _CHUNK):
        rows = slice(start, start + _CHUNK)
        x = samples.x[rows] if stored else samples.inputs(rows).to(torch.float32)
        values = x.detach().cpu().contiguous().reshape(len(x), -1).view(torch.uint8).numpy()
        for row in values:
            yield hashlib.blake2b(row, digest_size=16).digest()
