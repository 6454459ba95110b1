"""How a data set is cut into parts: by the labels as loaded, the sizes and the seed, and by nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import torch
from torch import Tensor

from robustsuite.core import checks
from robustsuite.core.samples import spread
from robustsuite.core.splits import RESERVED
from robustsuite.core.streams import Streams

TEST_SHARE: Final = 0.2  # held out where a data set has no test part and no count is asked for
# Of what a user's own data set has beside its test part. Detectors need about 1 / false alarm rate samples each, and
# repairs few; of the population a half each goes to the judge and to the adversary.
_SHARES: Final = {"trusted": 0.05, "calibration": 0.1, "judge": 0.075, "adversary": 0.075}
_MOST: Final = 2 / 3  # of what training could have, where no size is asked for


@dataclass(frozen=True)
class Sizes:
    """How many samples each part gets.

    Args:
        train: Training samples; None for all that no other part takes.
        test: Test samples; None for all, or for `held_out`.
        beside: By name, sizes of other parts that were asked for: they must fit, and are taken before the usual ones.
        usual: By name, sizes of the others: one that does not fit is empty. None for shares of the data set.
        held_out: How many rows to hold out where there is no test part; None for a fifth.
    """

    train: int | None = None
    test: int | None = None
    beside: Mapping[str, int] = field(default_factory=dict)
    usual: Mapping[str, int] | None = None
    held_out: int | None = None


class Rows(NamedTuple):
    """Rows of one part of a data set, in the order in which they are taken: `n` of them are the first `n`.

    Args:
        train: Rows of the training data.
        test: Rows of what was set apart as test data, taken before those.
    """

    train: Tensor
    test: Tensor

    def first(self, most: int | None) -> Rows:
        """At most so many."""
        if most is None:
            return self
        return Rows(self.train[: max(0, most - len(self.test))], self.test[:most])

    def __bool__(self) -> bool:
        """Whether there are any."""
        return len(self.train) + len(self.test) > 0


def cut(y: Tensor, y_test: Tensor | None, sizes: Sizes, seed: int) -> dict[str, Rows]:
    """Rows of every part; no two parts share one.

    Test samples come first in a seeded order of the test rows, training samples in one of the training rows. The other
    parts are taken one after the other from the ends of these orders, of unused test rows before training rows. So
    another number of training or test samples leaves the others as they are as long as all fit, and with one seed a
    smaller training or test set is contained in a larger one.

    Args:
        y: Labels of the training rows `(N,)`, or of all rows where there are no test rows.
        y_test: Labels of the rows that were set apart `(M,)`; None to hold out test samples here.
        sizes: How many of each.
        seed: Keys the orders.

    Raises:
        RequestError: More samples asked for than there are.
    """
    streams, none = Streams(seed).child("data"), torch.arange(0)
    if y_test is None:
        pool, spare = spread(y, streams.child("split").generator()), none
        default = round(TEST_SHARE * len(y)) if sizes.held_out is None else sizes.held_out
        count = min(default, len(y) - 1) if sizes.test is None else at_most(len(y) - 1, "test", sizes.test)
        found, pool = {"test": Rows(pool[:count], none)}, pool[count:]
    else:
        pool = spread(y, streams.child("train").generator())
        order = spread(y_test, streams.child("test").generator())
        count = len(order) if sizes.test is None else at_most(len(order), "test", sizes.test)
        found, spare = {"test": Rows(none, order[:count])}, order[count:]
    train = None if sizes.train is None else at_most(len(pool), "train", sizes.train)
    found |= _reserved(pool, spare, train, sizes)
    taken = sum(len(found[name].train) for name in RESERVED)
    return {**found, "train": Rows(pool[: len(pool) - taken if train is None else train], none)}


def _reserved(pool: Tensor, spare: Tensor, train: int | None, sizes: Sizes) -> dict[str, Rows]:
    """The parts beside training and test data: from the ends of both orders, what is asked for before what is usual."""
    room = len(pool) - train if train is not None else len(pool) - 1
    usual = sizes.usual if sizes.usual is not None else {k: round(v * len(pool)) for k, v in _SHARES.items()}
    found: dict[str, Rows] = {}
    for name in sorted(RESERVED, key=lambda name: name not in sizes.beside):
        count = sizes.beside.get(name, usual.get(name, 0))
        free = room if train is not None or name in sizes.beside else room - round((1 - _MOST) * len(pool))
        if count > len(spare) + max(free, 0):
            if name in sizes.beside:
                remedy = "ask for fewer, or for fewer training or test samples"
                raise checks.fail(f"at most {len(spare) + max(free, 0)} samples that are left", name, count, remedy)
            count = 0
        apart = min(count, len(spare))
        inside = count - apart
        found[name] = Rows(_last(pool, inside), _last(spare, apart))
        spare, pool, room = spare[: len(spare) - apart], pool[: len(pool) - inside], room - inside
    return found


def _last(order: Tensor, count: int) -> Tensor:
    return order[len(order) - count :].flip(0)


def at_most(most: int, name: str, count: int) -> int:
    """This count.

    Raises:
        RequestError: More than there are.
    """
    if count > most:
        raise checks.fail(f"at most {most} samples there", name, count, "ask for fewer")
    return count
