"""Samples: storage on the 8-bit grid, replacing rows, exact batches."""

import pytest
import torch

from robustsuite.core.errors import RequestError
from robustsuite.core.samples import Samples, stratified


@pytest.fixture(params=[(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)], ids=str)
def stored(request):
    x = torch.arange(101 * 6).reshape(101, 1, 2, 3).remainder(256).to(torch.uint8)
    return Samples(x, torch.arange(101) % 5, classes=5, bounds=request.param)


def test_eight_bit_values_span_the_bounds(stored):
    low, high = stored.bounds
    wanted = low + (high - low) * stored.x.double() / 255
    torch.testing.assert_close(stored.inputs().double(), wanted, rtol=1e-6, atol=1e-6)
    assert stored.inputs().dtype == torch.float32


def test_rows_on_the_grid_stay_eight_bit_and_the_original_is_untouched(stored):
    before = stored.x.clone()
    index = torch.tensor([4, 90])
    fresh = stored.inputs(torch.tensor([7, 8]))
    changed = stored.with_rows(index, fresh, torch.tensor([1, 2]))
    assert changed.x.dtype == torch.uint8
    assert torch.equal(changed.inputs(index), fresh)
    assert changed.y[index].tolist() == [1, 2]
    assert torch.equal(stored.x, before)
    others = torch.ones(101, dtype=torch.bool)
    others[index] = False
    assert torch.equal(changed.x[others], before[others])
    assert torch.equal(changed.y[others], stored.y[others])


def test_rows_off_the_grid_are_kept_exactly(stored):
    index = torch.tensor([0])
    low, high = stored.bounds
    fresh = torch.full((1, 1, 2, 3), low + (high - low) * 0.123456)
    changed = stored.with_rows(index, fresh, torch.tensor([0]))
    assert changed.x.dtype == torch.float32
    assert torch.equal(changed.inputs(index), fresh)
    assert torch.equal(changed.inputs()[1:], stored.inputs()[1:])


def test_batches_of_101_are_exact(stored):
    sizes = [len(b.y) for b in stored.batches(32)]
    assert sizes == [32, 32, 32, 5]
    assert torch.equal(torch.cat([b.x for b in stored.batches(32)]), stored.inputs())
    assert torch.equal(torch.cat([b.ids for b in stored.batches(7)]), stored.ids)


def test_digests_tell_contents_apart(stored):
    changed = stored.with_rows(torch.tensor([3]), stored.inputs(torch.tensor([3])), torch.tensor([4]))
    assert changed.digest() != stored.digest()
    assert stored.take(slice(0, 101)).digest() == stored.digest()


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "len(x)=0"),
        (torch.zeros(2, 2), torch.tensor([0, 3]), "y[1]=3"),
        (torch.zeros(2, 2), torch.tensor([0, -1]), "y[1]=-1"),
        (torch.tensor([[0.0, float("nan")]]), torch.tensor([0]), "x[0, 1]=nan"),
        (torch.full((1, 2), 200.0), torch.tensor([0]), "max=200"),
        (torch.zeros(2, 2), torch.tensor([0]), "len(y)=1"),
    ],
)
def test_bad_samples_are_refused_with_the_offending_value(x, y, words):
    with pytest.raises(RequestError, match="expected") as caught:
        Samples(x, y, classes=3)
    assert words in str(caught.value)


def test_stratified_splits_are_disjoint_and_balanced():
    y = torch.arange(1000) % 10
    a, b = stratified(y, (200, 300), torch.Generator().manual_seed(0))
    assert not set(a.tolist()) & set(b.tolist())
    assert torch.bincount(y[a]).tolist() == [20] * 10
    assert torch.bincount(y[b]).tolist() == [30] * 10
    with pytest.raises(RequestError, match="sizes"):
        stratified(y, (900, 200), torch.Generator())
