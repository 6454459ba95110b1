"""What a data set is before it is cut to size: labels at once, inputs on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from robustsuite.core import checks
from robustsuite.core.samples import Samples, spread
from robustsuite.core.splits import PARTS, RESERVED, Splits
from robustsuite.core.streams import Streams
from robustsuite.data.cutting import Rows, Sizes, at_most, cut


@dataclass(frozen=True, eq=False)
class Part:
    """Labels at once, inputs on demand, so that only the chosen rows are read.

    Args:
        y: Labels `(N,)`.
        rows: Row indices to inputs `(n, …)`.
        channels: The most channels of any image in the part, as many as its grey ones get; 0 where there are none.
    """

    y: Tensor
    rows: Callable[[Tensor], Tensor]
    channels: Callable[[], int]

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> Part:
        """A part that is in memory."""
        channels = x.shape[1] if x.dim() == 4 else 0
        return cls(y, lambda index: x if len(index) == len(x) else x[index], lambda: channels)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set that is yet to be cut.

    Args:
        name: Name for records and tables.
        train: Rows to train on, or all rows where there is no test part.
        test: Rows that were set apart by whoever made the data; None to hold rows out here.
        classes: How many there are.
        class_names: One per class, or none.
        bounds: Least and greatest raw input value.
        held_out: How many rows to hold out where there is no test part; None for a fifth.
        usual: Sizes of the parts beside training and test samples where none are asked for; None for shares.
        notes: What records should say of how the data were read.
    """

    name: str
    train: Part
    test: Part | None
    classes: int
    class_names: tuple[str, ...] = ()
    bounds: tuple[float, float] = (0.0, 1.0)
    held_out: int | None = None
    usual: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()

    def splits(self, sizes: Sizes, seed: int, *, whole: bool = False) -> Splits:
        """Cut to size, each class in its share.

        Ids number the rows of the training part from 0 and go on through the test part, so that no two rows of a data
        set have one id, and an id does not depend on the sizes asked for.

        Args:
            sizes: How many samples each part gets.
            seed: Keys the choice.
            whole: Whether data without a test part are taken whole, as either part.

        Raises:
            RequestError: More samples asked for than there are.
        """
        rows = self._rows(sizes, seed, whole=whole)
        train, test = self._read(rows["train"]), self._read(rows["test"])
        shapes = [train.shape, test.shape]
        if shapes[0] != shapes[1]:
            raise checks.fail("training and test inputs of one shape", "shapes", shapes, "resize or mend the data")
        beside = {name: partial(self._read, rows[name]) for name in RESERVED if rows[name]}
        return Splits(self.name, train, test, self.class_names, beside)

    def part(self, name: str, sizes: Sizes, most: int | None, seed: int, *, whole: bool = False) -> Samples:
        """One part of what `splits` gives, without reading the others.

        Args:
            name: One of `PARTS`.
            sizes: How many samples each part gets.
            most: At most so many of the part, each class in its share; None for all.
            seed: Keys the choices.
            whole: Whether data without a test part are taken whole, as either part.

        Raises:
            RequestError: More samples asked for than there are, or none in this part.
        """
        rows = self._rows(sizes, seed, whole=whole)[checks.one_of("part", name, PARTS)].first(most)
        if not rows:
            remedy = f"set the size of this part, or ask for fewer in the others, of {self.name}"
            raise checks.fail("a part that has samples", "part", name, remedy)
        return self._read(rows)

    def _rows(self, sizes: Sizes, seed: int, *, whole: bool) -> dict[str, Rows]:
        sizes = replace(sizes, usual=self.usual, held_out=self.held_out)
        if whole and self.test is None:
            none = Rows(torch.arange(0), torch.arange(0))
            both = {name: self._chosen(name, getattr(sizes, name), seed) for name in ("train", "test")}
            return {**dict.fromkeys(RESERVED, none), **both}
        return cut(self.train.y, None if self.test is None else self.test.y, sizes, seed)

    def _chosen(self, name: str, count: int | None, seed: int) -> Rows:
        order = spread(self.train.y, Streams(seed).child("data", name).generator())
        return Rows(order[: None if count is None else at_most(len(order), name, count)], torch.arange(0))

    def _read(self, rows: Rows) -> Samples:
        train, test = rows.train.sort().values, rows.test.sort().values
        held = [(self.train, train, 0)] if len(train) else []
        if self.test is not None and len(test):
            held.append((self.test, test, len(self.train.y)))
        x = _one_tensor([part.rows(index) for part, index, _ in held], self._channels)
        y = torch.cat([part.y[index] for part, index, _ in held])
        ids = torch.cat([index + offset for _, index, offset in held])
        return Samples(x, y, self.classes, self.bounds, ids, self.class_names, self.notes)

    def _channels(self) -> int:
        return max(part.channels() for part in (self.train, self.test) if part is not None)


def _one_tensor(pieces: list[Tensor], channels: Callable[[], int]) -> Tensor:
    """Inputs as one tensor; grey ones of a data set that has coloured ones are repeated over the channels."""
    if any(piece.dim() == 4 and piece.shape[1] == 1 for piece in pieces):
        most = channels()
        pieces = [piece.expand(-1, most, -1, -1).contiguous() if piece.dim() == 4 else piece for piece in pieces]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def own(splits: Splits, sizes: Sizes, seed: int) -> Splits:
    """A user's own splits at the sizes asked for; ids are kept where no two parts share one.

    Raises:
        RequestError: More samples asked for than there are.
    """
    train, test = splits.train, splits.test
    if bool(torch.isin(test.ids, train.ids).any()):
        test = replace(test, ids=test.ids - int(test.ids.min()) + int(train.ids.max()) + 1)
    given = {name: len(samples) for name in splits.beside if (samples := splits.part(name)) is not None}
    beside = {name: count for name, count in sizes.beside.items() if name not in given}
    for name in given.keys() & sizes.beside.keys():
        if sizes.beside[name] != given[name]:
            raise checks.fail(
                f"the {given[name]} samples that the factory gives", name, sizes.beside[name], "leave it out"
            )
    rows = cut(train.y, test.y, replace(sizes, beside={**beside, **dict.fromkeys(given, 0)}), seed)

    def read(name: str) -> Samples:
        of_train, of_test = (index.sort().values for index in rows[name])
        if len(of_test) == 0:
            return train.take(of_train)
        return test.take(of_test) if len(of_train) == 0 else joined(train.take(of_train), test.take(of_test))

    cuts = {name: partial(read, name) for name in RESERVED if rows[name]}
    return replace(splits, train=read("train"), test=read("test"), beside={**splits.beside, **cuts})


def joined(one: Samples, other: Samples) -> Samples:
    """Samples of one data set as one."""
    x, y, ids = (torch.cat(pair) for pair in ((one.inputs(), other.inputs()), (one.y, other.y), (one.ids, other.ids)))
    return replace(one, x=x, y=y, ids=ids, places=None)
