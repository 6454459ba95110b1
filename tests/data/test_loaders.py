"""Loaders: the data set behind them is read, each row once and in order, and what they would have done is said."""

import itertools
import re

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

import robustsuite as rs
from robustsuite.core.errors import RequestError
from robustsuite.data.coerce import to_samples

N = 13
X = torch.linspace(0, 1, N * 4).reshape(N, 1, 2, 2)
Y = torch.arange(N) % 3
ROWS = TensorDataset(X, Y)


class Stream(IterableDataset):
    """Rows without a length, and without an end unless `most` says so."""

    def __init__(self, most=None):
        self.most = most

    def __iter__(self):
        return itertools.islice(((X[i % N], Y[i % N]) for i in itertools.count()), self.most)


class Declared(Stream):
    """The same endless rows, of which it names so many."""

    def __len__(self):
        return N


class ForEver(Sampler):
    def __iter__(self):
        return itertools.cycle(range(N))


class Doubled(Sampler):
    def __iter__(self):
        return iter([*range(N), *range(N)])

    def __len__(self):
        return 2 * N


class Slice(Sampler):
    def __iter__(self):
        return iter([7, 2, 5])

    def __len__(self):
        return 3


class Repeating(DataLoader):
    """A loader with an iterator of its own, which never ends, such as those that keep workers alive."""

    def __iter__(self):
        while True:
            yield from super().__iter__()


def weighted():
    return WeightedRandomSampler(torch.where(Y == 0, 50.0, 1.0), N)


ALL = {
    "plain": (lambda: DataLoader(ROWS, 4), ""),
    "shuffled": (lambda: DataLoader(ROWS, 4, shuffle=True), ""),
    "drop_last": (lambda: DataLoader(ROWS, 4, drop_last=True), "drop_last would have left out 1 of the 13 rows"),
    "shuffled, dropped": (lambda: DataLoader(ROWS, 5, shuffle=True, drop_last=True), "left out 3 of the 13 rows"),
    "nothing to drop": (lambda: DataLoader(ROWS, 13, drop_last=True), ""),
    "weighted": (lambda: DataLoader(ROWS, 4, sampler=weighted()), r"sampler \(WeightedRandomSampler\)"),
    "replaced": (lambda: DataLoader(ROWS, 4, sampler=RandomSampler(ROWS, replacement=True)), "RandomSampler"),
    "some at random": (lambda: DataLoader(ROWS, 4, sampler=RandomSampler(ROWS, num_samples=6)), "drawn 6 rows"),
    "for ever": (lambda: DataLoader(ROWS, 4, sampler=ForEver()), "ForEver.*more than"),
    "twice": (lambda: DataLoader(ROWS, 4, sampler=Doubled()), "Doubled.*more than once"),
    "padded share": (lambda: DataLoader(ROWS, 4, sampler=DistributedSampler(ROWS, 1, 0, shuffle=True)), ""),
    "batch sampler": (lambda: DataLoader(ROWS, batch_sampler=BatchSampler(weighted(), 3, False)), "Weighted"),
    "batches by list": (
        lambda: DataLoader(ROWS, batch_size=None, sampler=BatchSampler(RandomSampler(ROWS), 5, True)),
        "left out 3 of the 13 rows",
    ),
    "workers": (lambda: DataLoader(ROWS, 4, shuffle=True, num_workers=1), ""),
    "declared stream": (lambda: DataLoader(Declared(), 4), ""),
    "declared stream, dropped": (lambda: DataLoader(Declared(), 4, drop_last=True), "left out 1 of the 13 rows"),
    "declared bare stream": (Declared, ""),
    "repeating": (lambda: Repeating(ROWS, 4), "iterator of its own"),
}


@pytest.mark.parametrize("kind", ALL)
def test_every_row_is_read_once_in_order(kind):
    make, said = ALL[kind]
    samples = to_samples(make(), classes=3)
    assert torch.equal(samples.x, X)
    assert torch.equal(samples.y, Y)
    assert len(samples.notes) == bool(said)
    assert re.search(said, " ".join(samples.notes))


@pytest.mark.parametrize(
    ("sampler", "rows"),
    [
        (SubsetRandomSampler([9, 1, 4]), [1, 4, 9]),
        (Slice(), [2, 5, 7]),
        (DistributedSampler(ROWS, 2, 1, shuffle=False, drop_last=True), [1, 3, 5, 7, 9, 11]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_part_that_is_the_same_in_every_pass_is_what_is_meant(sampler, rows):
    """A split by a sampler: its other rows may be what the model was trained on."""
    samples = to_samples(DataLoader(ROWS, 2, sampler=sampler), classes=3)
    assert torch.equal(samples.x, X[rows])
    assert torch.equal(samples.y, Y[rows])
    assert f"names {len(rows)} of the 13 rows" in samples.notes[0]


def test_the_collate_function_is_the_loaders():
    halved = DataLoader(
        ROWS, 4, collate_fn=lambda rows: (torch.stack([x / 2 for x, _ in rows]), [int(y) for _, y in rows])
    )
    samples = to_samples(halved, classes=3)
    assert torch.equal(samples.x, X / 2)
    assert torch.equal(samples.y, Y)


class Unnumbered(Dataset):
    def __getitem__(self, i):
        return X[i], Y[i]


@pytest.mark.parametrize(
    ("data", "way"),
    [
        (Stream(), "islice"),
        (Stream(5), "islice"),
        (DataLoader(Stream(), 4), r"islice\(data\.dataset"),
        (DataLoader(Stream(), None), "islice"),
        (((X, Y) for _ in itertools.count()), "islice"),
        (iter(DataLoader(ROWS, 4)), "islice"),
        (Unnumbered(), r"Subset\(data, range"),
        (DataLoader(Unnumbered(), 4), r"Subset\(data\.dataset"),
        (DataLoader(Unnumbered(), sampler=ForEver()), r"Subset\(data\.dataset"),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_has_no_length_needs_a_number(data, way):
    with pytest.raises(RequestError, match=rf"expected data with a length, got data='.*{way}"):
        to_samples(data, classes=3)


def test_the_ways_out_are_ways_out():
    few = to_samples(default_collate(list(itertools.islice(Stream(), 7))), classes=3)
    assert torch.equal(few.x, X[:7])
    assert torch.equal(to_samples(Subset(Unnumbered(), range(5)), classes=3).y, Y[:5])


def test_a_stream_that_ends_early_is_said():
    class Short(Stream):
        def __len__(self):
            return 20

    assert to_samples(Short(5), classes=3).notes == ("the stream has a length of 20 and gave 5 rows",)


def test_the_record_says_it_and_counts_every_row():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    frame = rs.evaluate(net, DataLoader(ROWS, 4, drop_last=True), ["noise"], ("linf", 0.1)).frame
    clean = frame[(frame.attack == "none") & (frame.metric == "clean_accuracy")].iloc[0]
    assert clean.n == N
    assert "the loader's drop_last would have left out 1 of the 13 rows" in clean.message


# --- labels of other tasks


def labelled(y):
    class Rows(Dataset):
        def __len__(self):
            return N

        def __getitem__(self, i):
            return X[i], y[i]

    return Rows()


def ragged(rows):
    return torch.stack([x for x, _ in rows]), torch.zeros(len(rows), len(rows))


ONE_HOT = torch.nn.functional.one_hot(Y)
OTHER = {
    "one-hot": (ONE_HOT, "one-hot: pass y.argmax"),
    "one-hot floats": (ONE_HOT.float(), "one-hot: pass y.argmax"),
    "multi-hot": (torch.ones(N, 3), "classifiers of whole inputs"),
    "boxes": (torch.rand(N, 4), "classifiers of whole inputs"),
    "maps": (torch.zeros(N, 2, 2, dtype=torch.long), "classifiers of whole inputs"),
    "regression": (torch.linspace(0.5, 3, N), "whole numbers as labels"),
    "not a number": (torch.full((N,), torch.nan), "whole numbers as labels"),
    "complex": (Y + 0j, "whole numbers as labels"),
}


@pytest.mark.parametrize("kind", OTHER)
@pytest.mark.parametrize("way", ["pair", "Dataset", "DataLoader", "loader of a Dataset"])
def test_labels_of_other_tasks_are_refused_in_one_line(kind, way):
    y, said = OTHER[kind]
    data = {"pair": (X, y), "Dataset": labelled(y), "DataLoader": DataLoader(TensorDataset(X, y), 4)}
    with pytest.raises(RequestError, match=said) as refusal:
        rs.evaluate(torch.nn.Flatten(), data.get(way, DataLoader(labelled(y), 4)), ["noise"], ("linf", 0.1))
    assert "\n" not in str(refusal.value)


class Sometimes(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        if i == 6:
            raise OSError("row 6 is broken\nand more")
        return X[i], Y[i]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (labelled([{"boxes": 1}] * N), "numbers in y"),
        (labelled([torch.zeros(i + 1) for i in range(N)]), "one label for each input"),
        (labelled([[0, [1]]] * N), "numbers in y"),
        (
            DataLoader(labelled([torch.zeros(i + 1) for i in range(N)]), 4),
            "DataLoader of Rows, which raised RuntimeError",
        ),
        (DataLoader(ROWS, 4, collate_fn=ragged), "one label for each input"),
        (Sometimes(), "Sometimes, which raised OSError: and more"),
        (DataLoader(ROWS, 4, collate_fn=lambda rows: 1 / 0), "ZeroDivisionError"),
        ([[X[:4], Y[:4]], [X[4:], Y[4:]]], "numbers in x"),
    ],
    ids=["dicts", "ragged", "nested", "ragged loader", "ragged batches", "broken row", "collate", "two batches"],
)
def test_whatever_a_data_set_gives_the_refusal_is_ours(data, said):
    with pytest.raises(RequestError, match=said) as refusal:
        to_samples(data, classes=3)
    assert "\n" not in str(refusal.value)
