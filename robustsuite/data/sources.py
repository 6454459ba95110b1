"""What a data set is before it is cut to size: labels at once, inputs on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from robustsuite.core import checks
from robustsuite.core.samples import Samples, Splits, stratified
from robustsuite.core.streams import Streams

PARTS: Final = ("train", "test")
TEST_SHARE: Final = 0.2  # held out where a data set has no test part and no count is asked for


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
        notes: What records should say of how the data were read.
        bounds: Least and greatest raw input value.
        held_out: How many rows to hold out where there is no test part; None for a fifth.
    """

    name: str
    train: Part
    test: Part | None
    classes: int
    class_names: tuple[str, ...] = ()
    bounds: tuple[float, float] = (0.0, 1.0)
    held_out: int | None = None
    notes: tuple[str, ...] = ()

    def splits(self, train: int | None, test: int | None, seed: int, *, whole: bool = False) -> Splits:
        """Cut to size, each class in its share.

        Ids number the rows of the training part from 0 and go on through the test part, so that no two rows of a data
        set have one id, and an id does not depend on the sizes asked for. With one seed, a smaller set is part of a
        larger one.

        Args:
            train: Training samples; None for all.
            test: Test samples; None for all, or for what `held_out` says.
            seed: Keys the choice.
            whole: Whether data without a test part are taken whole, as either part.

        Raises:
            RequestError: More samples asked for than there are.
        """
        if self.test is None and whole:
            rows = choose(self.train.y, train, "train", seed), choose(self.train.y, test, "test", seed)
            return self._made(self.train, rows[0], self.train, rows[1], 0)
        if self.test is None:
            chosen, kept = self._hold_out(train, test, Streams(seed).child("data", "split"))
            return self._made(self.train, chosen, self.train, kept, 0)
        rows = choose(self.train.y, train, "train", seed), choose(self.test.y, test, "test", seed)
        return self._made(self.train, rows[0], self.test, rows[1], len(self.train.y))

    def part(
        self, name: str, train: int | None, test: int | None, most: int | None, seed: int, *, whole: bool = False
    ) -> Samples:
        """One part of what `splits` gives, without reading the other.

        At most so many of a part are those that `splits` gives where so many are asked for.

        Args:
            name: `train` or `test`.
            train: Training samples; None for all.
            test: Test samples; None for all, or for what `held_out` says.
            most: At most so many of the part, each class in its share; None for all.
            seed: Keys the choices.
            whole: Whether data without a test part are taken whole, as either part.

        Raises:
            RequestError: More samples asked for than there are.
        """
        held, offset = self.train, 0
        counts = {"train": train, "test": test}
        if self.test is None and not whole:
            both = self._hold_out(train, test, Streams(seed).child("data", "split"))
            counts[name] = fewer(most, len(both[PARTS.index(name)]))
            streams = Streams(seed).child("data", "split")
            rows = self._hold_out(counts["train"], counts["test"], streams)[PARTS.index(name)]
        else:
            if self.test is not None and name == "test":
                held, offset = self.test, len(self.train.y)
            size = len(held.y) if counts[name] is None else _at_most(len(held.y), name, counts[name] or 0)
            rows = choose(held.y, fewer(most, size), name, seed)
        x = held.rows(rows)
        if x.dim() == 4 and x.shape[1] == 1:
            most_channels = max(p.channels() for p in (self.train, self.test) if p is not None)
            x = x.expand(-1, most_channels, -1, -1).contiguous()
        return self._samples(x, held.y[rows], rows + offset)

    def _samples(self, x: Tensor, y: Tensor, ids: Tensor) -> Samples:
        return Samples(x, y, self.classes, self.bounds, ids, self.class_names, self.notes)

    def _hold_out(self, train: int | None, test: int | None, streams: Streams) -> tuple[Tensor, Tensor]:
        n = len(self.train.y)
        default = round(TEST_SHARE * n) if self.held_out is None else self.held_out
        held = default if test is None else _at_most(n - 1, "test", test)
        count = n - held if train is None else _at_most(n - held, "train", train)
        # The test rows come first: another training size leaves them as they are.
        kept, chosen = stratified(self.train.y, (held, count), streams.generator())
        return chosen, kept

    def _made(self, train: Part, train_rows: Tensor, test: Part, test_rows: Tensor, offset: int) -> Splits:
        inputs = [train.rows(train_rows), test.rows(test_rows)]
        channels = max(x.shape[1] if x.dim() == 4 else 0 for x in inputs)
        # Grey rows beside coloured ones of the same data set are repeated over the channels.
        inputs = [x.expand(-1, channels, -1, -1).contiguous() if x.dim() == 4 else x for x in inputs]
        shapes = [tuple(x.shape[1:]) for x in inputs]
        if shapes[0] != shapes[1]:
            raise checks.fail("training and test inputs of one shape", "shapes", shapes, "resize or mend the data")
        made = [
            self._samples(x, part.y[rows], ids)
            for x, part, rows, ids in zip(
                inputs, (train, test), (train_rows, test_rows), (train_rows, test_rows + offset), strict=True
            )
        ]
        return Splits(self.name, made[0], made[1], self.class_names)


def choose(y: Tensor, count: int | None, name: str, seed: int) -> Tensor:
    """Rows of a stratified subset, in order; all of them for None.

    Args:
        y: Labels `(N,)`.
        count: How many.
        name: Name of the part, for the error and the key.
        seed: Keys the choice.

    Raises:
        RequestError: More samples asked for than there are.
    """
    if count is None or count == len(y):
        return torch.arange(len(y))
    return stratified(y, (_at_most(len(y), name, count),), Streams(seed).child("data", name).generator())[0]


def fewer(most: int | None, size: int) -> int:
    """How many of so many, where at most `most` are asked for; None for all."""
    return size if most is None else min(most, size)


def _at_most(most: int, name: str, count: int) -> int:
    if count > most:
        raise checks.fail(f"at most {most} samples there", name, count, "ask for fewer")
    return count
