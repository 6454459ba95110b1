"""`Samples`: inputs in the model's raw input space, labels and ids."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from robustsuite.core import checks


class Batch(NamedTuple):
    """A slice of samples as the model sees it: floating `x (N, …)`, labels `y (N,)`, ids `(N,)`.

    Inputs that were mixed from two samples have the labels of the other one, `partner (N,)`, and the own share of each,
    `share (N,)` in [0, 1]; both are None where nothing is mixed.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    partner: Tensor | None = None
    share: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs, labels and ids of one split.

    Args:
        x: `(N, …)`, floating in raw units, or uint8 for images whose value v stands for
            `low + (high - low) v / 255`.
        y: Labels `(N,)`, int64, in [0, classes).
        classes: How many classes there are, at least 2.
        bounds: Least and greatest raw input value.
        ids: Ids `(N,)` that key random draws and per-sample files; by default 0 to N - 1.
        class_names: One name per class, in label order, where they are known.
        notes: What the record should say of how the samples were read.
        whole: The dtype of integers or booleans that the inputs were given in; what attacks make of them is whole too.
            None for continuous inputs.
        places: Place of every sample in an order in which each class is spread evenly `(N,)`, float64 in [0, 1), by the
            labels as they were loaded; None where they are still these. What is cut by places is cut alike whatever a
            poisoner did to inputs and labels.

    Raises:
        RequestError: An empty set, lengths that differ, labels out of range, non-finite or out-of-bounds inputs.
    """

    x: Tensor
    y: Tensor
    classes: int
    bounds: tuple[float, float] = (0.0, 1.0)
    ids: Tensor = None  # type: ignore[assignment]  # filled in below, so that readers never meet None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    whole: torch.dtype | None = None
    places: Tensor | None = None

    def __post_init__(self) -> None:
        if self.ids is None:
            object.__setattr__(self, "ids", torch.arange(len(self.y)))  # type: ignore[unreachable]
        if len(self.x) == 0:
            raise checks.fail(
                "at least one sample", "len(x)", 0, "check split sizes, data path, and what a filter keeps"
            )
        if len(self.x) != len(self.y) or len(self.ids) != len(self.y):
            raise checks.fail("as many labels as inputs", "len(y)", len(self.y), f"x has {len(self.x)} rows")
        checks.integer("classes", self.classes, low=2)
        object.__setattr__(self, "y", self.y.to(torch.int64))
        checks.labels("y", self.y, self.classes)
        if self.x.dtype != torch.uint8:
            checks.finite("x", self.x)
            checks.within("x", self.x, self.bounds)
            self._clip()

    def _clip(self) -> None:
        flat, (low, high) = self.x.flatten(1), self.bounds
        if float(flat.amin()) < low or float(flat.amax()) > high:
            inside = self.x.clamp(low, high)
            count = int((inside != self.x).flatten(1).any(1).sum())
            if count == 0:  # a bound that its dtype does not have
                return
            note = f"{count} inputs lay out of bounds by no more than rounding, and were clipped"
            object.__setattr__(self, "x", inside)
            object.__setattr__(self, "notes", (*self.notes, note))

    def __len__(self) -> int:
        """Number of samples N."""
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.x.shape[1:])

    def inputs(self, index: Tensor | slice | None = None) -> Tensor:
        """Floating inputs of the chosen rows, in raw units."""
        rows = self.x if index is None else self.x[index]
        if rows.dtype != torch.uint8:
            return rows
        low, high = self.bounds
        scaled = rows.to(torch.float32) / 255
        return scaled if self.bounds == (0.0, 1.0) else scaled * (high - low) + low

    def batch(self, index: Tensor | slice, device: torch.device | str = "cpu") -> Batch:
        """The chosen rows as a batch on a device."""
        return Batch(self.inputs(index).to(device), self.y[index].to(device), self.ids[index].to(device))

    def batches(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """All rows in order, `size` at a time, the last batch shorter where it does not divide."""
        for start in range(0, len(self), checks.integer("batch size", size, low=1)):
            yield self.batch(slice(start, start + size), device)

    def take(self, index: Tensor | slice) -> Samples:
        """The chosen rows as samples of their own, ids kept."""
        places = None if self.places is None else self.places[index]
        return replace(self, x=self.x[index], y=self.y[index], ids=self.ids[index], places=places)

    def order(self) -> Tensor:
        """`places`, or where there are none those by the labels as they are now `(N,)`."""
        if self.places is not None:
            return self.places
        places = torch.empty(len(self), dtype=torch.float64)
        places[spread(self.y, torch.Generator().manual_seed(0))] = torch.arange(len(self)).double() / len(self)
        return places

    def with_rows(self, index: Tensor, x: Tensor, y: Tensor) -> Samples:
        """A copy in which the rows `index` hold floating inputs `x` and labels `y`.

        uint8 storage is kept where the new values lie exactly on its grid, and given up otherwise. Places are those of
        the samples as they are here.
        """
        places, labels = self.order(), self.y.clone()
        labels[index] = y.to(labels.dtype)
        if self.x.dtype == torch.uint8:
            low, high = self.bounds
            grid = ((x - low) / (high - low) * 255).round()
            stored = self.x.clone()
            stored[index] = grid.clamp(0, 255).to(torch.uint8)
            rebuilt = replace(self, x=stored, y=labels, places=places)
            if torch.equal(rebuilt.inputs(index), x.to(torch.float32)):
                return rebuilt
        full = self.inputs().clone()
        full[index] = x.to(full.dtype)
        return replace(self, x=full, y=labels, places=places)

    def copy(self) -> Samples:
        """The same samples in memory of their own, so that whoever gets them may write to them."""
        twin = copy.copy(self)
        # Past the checks, which these samples have passed; and without a digest, for the copy may be written to.
        vars(twin).update(x=self.x.detach().clone(), y=self.y.detach().clone(), ids=self.ids.detach().clone())
        vars(twin).update(places=None if self.places is None else self.places.detach().clone())
        vars(twin).pop("_digest", None)
        return twin

    def digest(self) -> str:
        """24 hexadecimal digits over inputs, labels, ids and bounds, as they were when this was first asked."""
        return self._digest

    def intact(self) -> bool:
        """Whether `digest` still describes these samples; their tensors can be written to, though they are frozen."""
        return self._digest == self._measured()

    @cached_property
    def _digest(self) -> str:
        return self._measured()

    def _measured(self) -> str:
        state = hashlib.sha256(f"{tuple(self.x.shape)}{self.x.dtype}{self.classes}{self.bounds}".encode())
        for part in (self.x, self.y, self.ids, *(() if self.places is None else (self.places,))):
            state.update(part.contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return state.hexdigest()[:24]


def stratified(y: Tensor, sizes: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Disjoint index sets of the given sizes in which each class has its share, up to rounding.

    Rows are shuffled within each class, then interleaved by relative rank, so every prefix of the order is stratified.

    Args:
        y: Labels `(N,)`.
        sizes: How many rows each set gets; their sum is at most N.
        generator: Source of the shuffle.

    Raises:
        RequestError: More rows asked for than there are.
    """
    if sum(sizes) > len(y):
        raise checks.fail(f"at most {len(y)} samples in all", "sizes", sizes, "ask for fewer")
    order = spread(y, generator)
    cuts = torch.tensor((0, *sizes)).cumsum(0).tolist()
    return tuple(order[a:b].sort().values for a, b in pairwise(cuts))


def spread(y: Tensor, generator: torch.Generator) -> Tensor:
    """All rows in an order of which every stretch holds each class in its share, up to rounding.

    Args:
        y: Labels `(N,)`.
        generator: Source of the shuffle within the classes.
    """
    shuffled = torch.randperm(len(y), generator=generator)
    labels = y[shuffled]
    rank = torch.empty(len(y), dtype=torch.float64)
    for label in torch.unique(labels).tolist():
        rows = (labels == label).nonzero()[:, 0]
        rank[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
    return shuffled[torch.argsort(rank, stable=True)]
