import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from robustsuite.core.errors import RequestError
from robustsuite.core.samples import Samples
from robustsuite.data.coerce import to_samples

X = torch.linspace(0, 1, 40).reshape(10, 1, 2, 2)
Y = torch.arange(10) % 3


class Listed(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, i):
        if i >= 10:
            raise IndexError(i)
        return X[i], int(Y[i])


class Streamed(IterableDataset):
    def __len__(self):
        return 10

    def __iter__(self):
        return iter([(x.numpy(), np.int64(y)) for x, y in zip(X, Y, strict=True)])


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        [X.numpy(), Y.numpy()],
        (X.tolist(), Y.tolist()),
        (X, Y.float()),
        (X, Y[:, None]),
        (X.clone().requires_grad_(), Y.to(torch.int32)),
        Listed(),
        Streamed(),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=4),
        DataLoader(Listed(), batch_size=3),
        Samples(X, Y, 3),
    ],
    ids=lambda data: type(data).__name__,
)
def test_every_kind_gives_the_same_samples(data):
    samples = to_samples(data, classes=None)
    assert samples.classes == 3
    assert not samples.x.requires_grad
    assert torch.allclose(samples.x.float(), X, atol=1e-7)
    assert torch.equal(samples.y, Y)


def test_float64_stays_float64_and_declared_classes_count():
    samples = to_samples((X.double(), Y), classes=7)
    assert samples.x.dtype == torch.float64
    assert samples.classes == 7
    assert to_samples(Samples(X, Y, 3), classes=5).classes == 5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_0_to_255_is_refused_naming_min_max_bounds_and_wrap(dtype):
    images = (X * 255).round().to(dtype)
    with pytest.raises(
        RequestError, match=r"bounds=\(0, 1\), got min=0 and max=255.*rs\.wrap\(model, bounds=\(0, 255\)"
    ):
        to_samples((images, Y), classes=3)
    kept = to_samples((images, Y), classes=3, bounds=(0.0, 255.0))
    assert torch.equal(kept.inputs(), images.float())


def test_normalised_inputs_are_refused_naming_the_wrap():
    with pytest.raises(RequestError, match=r"min=-0\.4.*rs\.wrap\(model, mean=\.\.\., std=\.\.\.\)"):
        to_samples(((X - 0.13) / 0.31, Y), classes=3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_inputs_name_the_first_index(bad):
    x = X.clone()
    x[7, 0, 1, 0] = x[9, 0, 0, 0] = bad
    with pytest.raises(RequestError, match=r"x\[7, 0, 1, 0\]"):
        to_samples((x, Y), classes=3)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ((X, torch.where(Y == 2, 5, Y)), r"y\[2\]=5"),
        ((X, Y - 1), r"y\[0\]=-1"),
        ((X, torch.nn.functional.one_hot(Y)), "argmax"),
        ((X, Y + 0.5), r"y\[0\]=0\.5"),
        ((X[:9], Y), "x has 9 rows"),
        ((X[:0], Y[:0]), "at least one sample"),
        ((torch.zeros(10), Y), r"x\.shape"),
        ((X + 0j, Y), "complex"),
        ((np.array(["a"] * 10), Y), "numbers in x"),
        (X, "Tensor"),
        ((X, Y, Y), "tuple of 3"),
        (None, "NoneType"),
        (TensorDataset(X[:0], Y[:0]), "at least one sample"),
        (DataLoader(TensorDataset(X[:0], Y[:0])), "at least one sample"),
        (DataLoader(X), "Tensor"),
    ],
)
def test_data_that_cannot_be_judged(data, told):
    with pytest.raises(RequestError, match=told):
        to_samples(data, classes=3)


def test_pil_images_are_refused_with_the_transform_that_mends_it():
    from PIL import Image

    class Pictures(Listed):
        def __getitem__(self, i):
            return Image.new("L", (2, 2)), 0

    with pytest.raises(RequestError, match="ToDtype"):
        to_samples(Pictures(), classes=2)


def test_inputs_of_several_shapes_are_named():
    class Ragged(Listed):
        def __getitem__(self, i):
            return torch.zeros(1, 2 + i % 2, 2), 0

    with pytest.raises(RequestError, match=r"\(1, 2, 2\), \(1, 3, 2\)"):
        to_samples(Ragged(), classes=2)


def test_shuffling_leaves_no_trace_and_gives_one_order():
    own = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True, generator=own)
    torch.manual_seed(3)
    before, kept = torch.get_rng_state(), own.get_state()
    first, second = (to_samples(loader, classes=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(own.get_state(), kept)
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.x.flatten(1).sum(1).sort().values, X.flatten(1).sum(1).sort().values)
    plain = DataLoader(TensorDataset(X, Y), shuffle=True)
    assert torch.equal(to_samples(plain, classes=3).y, to_samples(plain, classes=3).y)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_callers_tensors_are_not_written():
    x, y = X.clone(), Y.clone()
    samples = to_samples((x, y), classes=3)
    assert samples.x.data_ptr() == x.data_ptr()
    assert torch.equal(x, X)
