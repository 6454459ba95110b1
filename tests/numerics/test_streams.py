"""Counter-based random numbers: statistics, batch invariance, independence."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robustsuite.core.streams import Streams

N = 20_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_and_normal_draws_have_their_distribution(dtype):
    ids = torch.arange(N)
    uniform = Streams(0).uniform(ids, (3,), dtype=dtype)
    normal = Streams(0).normal(ids, (3,), dtype=dtype)
    assert uniform.dtype == normal.dtype == dtype
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    for column in range(3):  # across ids, which is how attacks draw
        assert stats.kstest(uniform[:, column].double().numpy(), "uniform").pvalue > 1e-3
        assert stats.kstest(normal[:, column].double().numpy(), "norm").pvalue > 1e-3
    wide = Streams(0).uniform(torch.tensor([7]), (N,), dtype=dtype)[0]  # and across one sample's coordinates
    assert stats.kstest(wide.double().numpy(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(wide[:-1].double(), wide[1:].double())[0, 1]) < 4 / N**0.5


def test_every_bit_is_fair():
    bits = Streams(1).bits(torch.arange(5000), (2,))
    for position in range(64):
        share = float(((bits >> position) & 1).double().mean())
        assert abs(share - 0.5) < 5 * 0.5 / 10_000**0.5, position


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    ids=st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20),
    seed=st.integers(0, 2**40),
    cut=st.integers(0, 20),
)
def test_draws_do_not_depend_on_the_batch(ids, seed, cut):
    stream, keys = Streams(seed).child("start", 3), torch.tensor(ids)
    whole = stream.normal(keys, (2, 3))
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(cut))
    assert torch.equal(stream.normal(keys[order], (2, 3)), whole[order])
    parts = [stream.normal(part, (2, 3)) for part in (keys[:cut], keys[cut:])]
    assert torch.equal(torch.cat(parts), whole)


def test_children_seeds_and_draws_are_independent():
    ids = torch.arange(N)
    streams = [Streams(0), Streams(1), Streams(0).child("a"), Streams(0).child("b"), Streams(0).child("a", "b")]
    streams += [Streams(0).child("start", run) for run in range(3)]
    drawn = np.stack([s.uniform(ids, (1,), dtype=torch.float64)[:, 0].numpy() for s in streams])
    off = np.corrcoef(drawn) - np.eye(len(streams))
    assert np.abs(off).max() < 5 / N**0.5
    assert len({s.key for s in streams}) == len(streams)
    assert Streams(0).child("a").child("b") == Streams(0).child("a", "b")


def test_the_numbers_are_frozen():
    """Published records name these draws; a change here makes every stored seed mean something else."""
    stream = Streams(0).child("start", 0)
    assert stream.key == 2919886281971781628
    assert stream.bits(torch.tensor([0, 1]), (1,)).flatten().tolist() == [-8310485246721608844, -5101645671067720414]


def test_integers_and_permutations():
    drawn = Streams(2).integers(torch.arange(N), 7)
    counts = torch.bincount(drawn, minlength=7).numpy()
    assert drawn.dtype == torch.int64
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 1e-3
    order = Streams(2).permutation(100)
    assert torch.equal(order.sort().values, torch.arange(100))
    assert torch.equal(order, Streams(2).permutation(100))


def test_drawing_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    Streams(0).normal(torch.arange(4), (3,))
    Streams(0).permutation(5)
    assert torch.equal(torch.get_rng_state(), before)
