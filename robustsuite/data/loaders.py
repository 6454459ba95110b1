"""Every row of a Dataset or DataLoader once, in the data set's order, and what a loader would have done instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Sampler, SequentialSampler, Subset

from robustsuite.core import checks
from robustsuite.core.errors import RequestError, RobustsuiteError
from robustsuite.core.isolation import seeded

_BATCH: Final = 256
_MOST: Final = 10**8  # rows; whoever says that there are more means that there is no end


@dataclass(frozen=True)
class Reading:
    """How a Dataset or DataLoader is read.

    Args:
        batches: What gives the batches.
        most: Rows after which reading ends, whatever else there would be; None where the batches end by themselves.
        note: What the loader would have done otherwise; empty where it would have given the same rows.
    """

    batches: Iterable[Any]
    most: int | None = None
    note: str = ""


def in_order(data: Dataset[Any] | DataLoader[Any], collate: Any) -> Reading:
    """A loader of every row of the data set, in order.

    A data set that a loader holds is read as a whole, since a model is judged on data, not on one pass of a loader: its
    `collate_fn` and workers are kept, its order, `drop_last` and resampling are not. Rows are left out only where the
    sampler names the same part of them in every pass, as `SubsetRandomSampler` does. A loader of a class with an
    iterator of its own is read as it yields, one pass of it.

    Args:
        data: What a user passes in.
        collate: Rows to a batch, for a bare Dataset.

    Raises:
        RequestError: A stream without a length.
    """
    if not isinstance(data, DataLoader):
        most = length(data)
        loader: DataLoader[Any] = DataLoader(data, batch_size=_BATCH, collate_fn=collate)
        return Reading(loader, most if isinstance(data, IterableDataset) else None)
    if type(data).__iter__ is not DataLoader.__iter__:
        note = f"a {_called(data)} has an iterator of its own: what one pass of it yields was read"
        return Reading(islice(data, length(data)), note=note)
    if isinstance(data.dataset, IterableDataset):
        # Without workers, each of which would give the whole stream again.
        loader = DataLoader(data.dataset, batch_size=data.batch_size, collate_fn=data.collate_fn)
        most = length(data.dataset, data)
        return Reading(loader, most, _left_out(data.batch_size, data.drop_last, most))
    keys, note = _keys(data)
    _, size, drops = _Parts.of(data)
    return Reading(_relisted(data, keys), note=note or _left_out(size, drops, len(keys)))


def length(counted: Any, data: Any = None) -> int:
    """How many rows a Dataset or a sampler has, or batches a loader.

    Args:
        counted: Asked for its length.
        data: What the user passed in, where that holds it.

    Raises:
        RequestError: It does not say, or so many that nobody means it.
    """
    try:
        count = len(counted)
    except (TypeError, NotImplementedError, ValueError, AttributeError, OverflowError) as error:
        raise endless(counted if data is None else data) from error
    if count > _MOST:
        raise endless(counted if data is None else data)
    return count


def endless(data: Any) -> RequestError:
    """The refusal of a stream that nobody knows the end of."""
    held, rows = (data.dataset, "data.dataset") if isinstance(data, DataLoader) else (data, "data")
    if isinstance(held, Dataset) and not isinstance(held, IterableDataset):
        way = f"torch.utils.data.Subset({rows}, range(1000))"
    else:
        way = f"default_collate(list(itertools.islice({rows}, 1000)))"
    return checks.fail("data with a length", "data", _called(data), f"say how many rows to judge, as by {way}")


@contextmanager
def readable(data: Any) -> Iterator[None]:
    """Give what a user's data set raises as one line, and leave its loader's generators as they were.

    Raises:
        RequestError: What it raised.
    """
    own = [g for g in _generators(data) if g is not None]
    states = [g.get_state() for g in own]
    try:
        yield
    except RobustsuiteError:
        raise
    except Exception as error:  # a stranger's data set may raise anything
        said = (str(error).strip().splitlines() or ["without a word"])[-1]
        raise RequestError(
            f"expected data that give their rows, got data={_called(data)}, which raised {type(error).__name__}: "
            f"{said}; see that every row of it can be read, and put into a batch with others"
        ) from error
    finally:
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)


def _generators(data: Any) -> Iterator[Any]:
    if isinstance(data, DataLoader):
        yield data.generator
        for sampler in {id(s): s for s in (data.sampler, getattr(data.batch_sampler, "sampler", None))}.values():
            yield getattr(sampler, "generator", None)


class _Parts(NamedTuple):
    """What a loader draws by: one key after the other, into batches of a size, of which the last may be dropped."""

    sampler: Any
    size: int
    drops: bool

    @classmethod
    def of(cls, loader: DataLoader[Any]) -> _Parts:
        batches = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        if type(batches) is BatchSampler:
            return cls(batches.sampler, batches.batch_size, batches.drop_last)
        one_by_one = loader.batch_sampler is None and not isinstance(batches, BatchSampler)
        return cls(batches, 1 if one_by_one else getattr(batches, "batch_size", _BATCH), False)


def _relisted(loader: DataLoader[Any], keys: Sequence[Any]) -> DataLoader[Any]:
    """The loader again, with these keys of its data set one after the other."""
    kept = {name: getattr(loader, name) for name in ("collate_fn", "num_workers", "timeout", "worker_init_fn")}
    if loader.num_workers > 0:
        kept["multiprocessing_context"] = loader.multiprocessing_context
    listed, size = _Listed(keys), _Parts.of(loader).size
    if loader.batch_sampler is not None:
        return DataLoader(loader.dataset, batch_size=size, sampler=listed, **kept)
    # Here the data set makes the batches, by a key each, or by lists of keys.
    by_list: Any = BatchSampler(listed, size, drop_last=False) if isinstance(loader.sampler, BatchSampler) else listed
    return DataLoader(loader.dataset, batch_size=None, sampler=by_list, **kept)


class _Listed(Sampler[Any]):
    """Keys in a given order."""

    def __init__(self, keys: Sequence[Any]) -> None:
        self._keys = keys

    def __iter__(self) -> Iterator[Any]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _keys(loader: DataLoader[Any]) -> tuple[Sequence[Any], str]:
    """The keys of the rows to read, and what the loader's sampler would have done otherwise."""
    sampler = _Parts.of(loader).sampler
    if isinstance(sampler, SequentialSampler):
        return range(length(loader.dataset, loader)), ""
    if not hasattr(loader.dataset, "__len__"):
        return list(dict.fromkeys(_drawn(sampler, length(sampler, loader), 0))), ""
    count = length(loader.dataset, loader)
    first, second = (_drawn(sampler, count + 1, seed) for seed in (0, 1))
    if not all(isinstance(key, int) for key in first):
        return list(dict.fromkeys(first)), ""
    named, every, who = set(first), range(count), f"sampler ({_called(sampler)})"
    if len(named) == count:
        again = f"the loader's {who} would have drawn some of the {count:,} rows more than once"
        return every, f"{again}; each was read once, in order" if len(first) > count else ""
    if len(named) == len(first) and named == set(second):
        part = f"the loader's {who} names {len(named):,} of the {count:,} rows, in every pass the same"
        return sorted(named), f"{part}; only these were read, in order"
    rows = f"{len(first):,}" if len(first) <= count else f"more than {count:,}"
    would = f"the loader's {who} would have drawn {rows} rows, of which {len(named):,} differ, from {count:,}"
    return every, f"{would}; each of these was read once, in order"


def _drawn(sampler: Any, most: int, seed: int) -> list[Any]:
    """At most so many keys of one pass; lists of them one after the other."""
    found: list[Any] = []
    with seeded(seed):
        for item in islice(sampler, most):
            part = item.tolist() if hasattr(item, "tolist") else item
            found += part if isinstance(part, (list, tuple)) else [part]
            if len(found) >= most:
                break
    return found[:most]


def _left_out(size: int | None, drops: bool, n: int) -> str:
    left = n % size if size and drops else 0
    told = f"the loader's drop_last would have left out {left:,} of the {n:,} rows; all were read, in order"
    return told if left else ""


def _called(value: Any) -> str:
    name = type(value).__name__
    return f"{name} of {type(value.dataset).__name__}" if isinstance(value, (DataLoader, Subset)) else name
