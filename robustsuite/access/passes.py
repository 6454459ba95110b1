"""What an attack spends on each sample: forward and backward passes, and how many before the sample was broken."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

_NEVER: Final = torch.iinfo(torch.int64).max
_WAIT: Final = 64  # passes that are added up at once, because an addition costs about as much as a small network


class Owners(NamedTuple):
    """Whose a batch is: where samples of a view are counted `(N,)`, and which of them each row `(n,)` belongs to."""

    places: Tensor
    rows: Tensor


class Passes:
    """Passes of each sample, counted on the device without a look at any of them.

    Args:
        ids: Ids of the samples that are counted, each once.
        reach: Distance up to which a success counts, where attacks look for the nearest one whatever the
            radius; None where every success that is told does.
        device: Where samples are passed on.
    """

    def __init__(self, ids: Tensor, *, reach: float | None = None, device: torch.device | str = "cpu") -> None:
        self.reach = reach
        self._ids = ids.to(device).sort().values
        self._count = torch.zeros(len(ids), dtype=torch.int64, device=device)
        self._until = torch.full_like(self._count, _NEVER)
        self._waiting: list[Owners] = []
        self._owners: Owners | None = None

    def places(self, ids: Tensor) -> Tensor:
        """Where these samples are counted, `(n,)`; to be looked up once a view."""
        return torch.searchsorted(self._ids, ids)

    def of(self, owners: Owners) -> Belonging:
        """A context in which batches of so many inputs are those of these samples, row by row."""
        return Belonging(self, owners)

    def owners(self, n: int) -> Owners | None:
        """Whose a batch of `n` inputs is now; None where nobody said."""
        return self._owners if self._owners is not None and len(self._owners.rows) == n else None

    def spend(self, owners: Owners) -> None:
        """Count a pass of each row; of a sample that has several, as many."""
        self._waiting.append(owners)
        if len(self._waiting) >= _WAIT:
            self._add()

    def note_broken(self, places: Tensor) -> None:
        """The samples that are counted there were seen to be broken by now; only the first time counts."""
        self._add()
        self._until.scatter_reduce_(0, places, self._count[places], "amin")

    def until_broken(self, ids: Tensor) -> Tensor:
        """Passes until each sample was broken, or in all where it never was; int64 `(n,)`, on the CPU."""
        self._add()
        spent, known, ids = torch.minimum(self._count, self._until).cpu(), self._ids.cpu(), ids.cpu()
        if len(known) == 0:
            return torch.zeros(len(ids), dtype=torch.int64)
        place = torch.searchsorted(known, ids).clamp_max(len(known) - 1)
        return spent[place].masked_fill(known[place] != ids, 0)

    def _add(self) -> None:
        if self._waiting:
            places = torch.cat([owners.places[owners.rows] for owners in self._waiting])
            self._count.index_add_(0, places, torch.ones_like(places))
            self._waiting.clear()


class Belonging:
    """While it is entered, batches belong to these samples."""

    def __init__(self, passes: Passes, owners: Owners) -> None:
        self._passes, self._owners, self._before = passes, owners, passes._owners

    def __enter__(self) -> None:
        self._passes._owners = self._owners

    def __exit__(self, *raised: object) -> None:
        self._passes._owners = self._before
