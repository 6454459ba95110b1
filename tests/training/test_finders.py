"""The learning-rate finder and the batch-size finder."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.errors import RequestError, RobustsuiteError
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_recipe
from robustsuite.training.finders import find_batch_size, find_lr
from robustsuite.training.fit import fit
from robustsuite.training.parts import CleanLoss
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training


@dataclass(frozen=True)
class Full(CleanLoss):
    """Memory for a batch of so many samples."""

    room: int = 37

    def __call__(self, network, batch, step):
        if len(batch.y) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().__call__(network, batch, step)


@dataclass(frozen=True)
class Linear:
    def __call__(self, classes, shape, bounds):
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def test_the_suggested_rate_trains_better_than_a_hundredth_of_it_or_a_hundredfold():
    plain = tiny_recipe()
    plain = replace(plain, training=plain.training.override({"optimizer": "sgd", "epochs": 2}))
    found = rs.find_lr(plain, tiny_samples(200))

    def loss(rate):
        return fit(replace(plain, training=plain.training.override({"lr": rate})), tiny_samples(200), 0).history[-1]

    losses = [loss(found.suggestion * factor)["train_loss"] for factor in (0.01, 1.0, 100.0)]
    assert losses[1] < 0.7 * losses[0]
    assert losses[1] < losses[2]


def test_rates_rise_exponentially_and_stop_where_the_loss_diverges():
    plain = Recipe(build=Linear(), training=Training(optimizer="sgd", batch_size=50, momentum=0.9))
    found = find_lr(plain, tiny_samples(100), steps=60, highest=1e6)
    ratios = [b / a for a, b in zip(found.rates, found.rates[1:], strict=False)]
    assert found.rates[0] == pytest.approx(1e-7)
    assert ratios == pytest.approx([1e13 ** (1 / 59)] * len(ratios))
    assert len(found.rates) < 60
    assert max(found.losses) <= 4 * min(found.losses)
    least = found.rates[found.losses.index(min(found.losses))]
    assert found.suggestion == pytest.approx(least / 10)


def test_a_search_repeats_and_leaves_nothing_behind():
    samples, before = tiny_samples(100), torch.random.get_rng_state()
    digest, given = samples.digest(), torch.is_grad_enabled()
    one, other = (find_lr(tiny_recipe(), samples, steps=20) for _ in range(2))
    find_batch_size(tiny_recipe(), samples, most=4)
    assert one == other
    assert one != find_lr(tiny_recipe(), samples, steps=20, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.is_grad_enabled() == given
    assert samples.intact()
    assert samples.digest() == digest


def test_accumulated_batches_and_augmentation_are_those_of_the_training():
    plain, samples = replace(tiny_recipe(), build=Linear()), tiny_samples(96)

    def found(**changes):
        changed = replace(plain, training=plain.training.override(changes))
        return find_lr(changed, samples, steps=60)

    large, parts = found(batch_size=48), found(batch_size=12, accumulate=4)
    assert parts.losses == pytest.approx(large.losses, rel=1e-3)
    assert found(batch_size=48, augment=[{"crop": {"padding": 1}}]).losses != large.losses


def test_a_loss_that_never_falls_is_an_error():
    @dataclass(frozen=True)
    class Stuck(CleanLoss):
        def __call__(self, network, batch, step):
            return super().__call__(network, batch, step) * 0 + 1

    with pytest.raises(RobustsuiteError, match=r"got losses from 1 down to 1; check labels"):
        find_lr(replace(tiny_recipe(), objective=Stuck()), tiny_samples(64), steps=10)


def test_private_training_is_not_searched():
    private = rs.defense("dp-sgd", epsilon=3.0, delta=1e-4)(tiny_recipe())
    for search in (find_lr, find_batch_size):
        with pytest.raises(RequestError, match="costs privacy"):
            search(private, tiny_samples(64))


@pytest.mark.parametrize("room", [1, 2, 31, 32, 37])
def test_the_greatest_batch_that_fits(room):
    found = find_batch_size(replace(tiny_recipe(), build=Linear(), objective=Full(room=room)), tiny_samples(64))
    assert (found.size, found.bound) == (room, "memory")
    assert found.note == f"a batch of {room} fits into memory, and one of {room + 1} does not"


def test_without_an_end_of_memory_the_bound_is_named():
    plain = replace(tiny_recipe(), build=Linear())
    assert find_batch_size(plain, tiny_samples(50)).bound == "samples"
    limited = find_batch_size(plain, tiny_samples(50), most=24)
    assert (limited.size, limited.bound) == (24, "limit")
    assert "it swaps before it fails" in limited.note


def test_other_errors_are_no_lack_of_memory():
    @dataclass(frozen=True)
    class Broken(CleanLoss):
        def __call__(self, network, batch, step):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        find_batch_size(replace(tiny_recipe(), objective=Broken()), tiny_samples(50))
    with pytest.raises(RobustsuiteError, match="batch_size=1"):
        find_batch_size(replace(tiny_recipe(), build=Linear(), objective=Full(room=0)), tiny_samples(50))
