"""What clean inputs share is kept: by the nearest inputs, and never beyond the ball."""

import pytest
import torch

from robustsuite.core.ball import Ball
from robustsuite.core.traits import Traits, traits_of

X = torch.randint(0, 256, (40, 3, 5, 5), generator=torch.Generator().manual_seed(0)).float() / 255
X[:, :, 0] = 0.0
X[X < 0.1] = 0.0
MOVED = (X + 0.1 * torch.randn(X.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


def test_images_share_their_values_their_zeros_and_what_never_varies():
    values, zeros, everything = traits_of(X, 0.0)
    assert torch.equal(values.levels, X.unique())
    assert (zeros.levels, zeros.lowest) == (None, 0.0)
    assert torch.equal(everything.fixed, (torch.arange(5) == 0)[None, :, None].expand(3, 5, 5))
    names = [traits.name for traits in (values, zeros, everything)]
    assert names == ["the values", "the zeros", "the values and the zeros and the constant coordinates"]


def test_continuous_inputs_without_zeros_share_nothing():
    assert list(traits_of(torch.rand(40, 3, 5, 5) / 2 + 0.1, 0.0)) == []


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_what_is_kept_is_kept_within_the_ball(norm):
    for radius in (0.0731, 0.9, 5.0):
        ball = Ball(norm, radius, (0.0, 1.0))
        inside = ball.project(MOVED, X)
        for traits in traits_of(X, 0.0):
            kept = ball.rounded(inside, X, traits)
            assert ball.contains(kept, X).all()
            if traits.levels is not None:
                assert torch.isin(kept, traits.levels).all()
            if traits.lowest is not None:
                assert bool((kept[X == 0] == 0).all())
            if traits.fixed is not None:
                assert torch.equal(kept[:, traits.fixed], X[:, traits.fixed])


def test_the_nearest_value_is_the_nearest():
    traits = Traits(levels=torch.tensor([0.0, 0.1, 0.4, 1.0]))
    x = torch.tensor([[0.1, 0.1, 0.4, 1.0]])
    torch.testing.assert_close(
        traits.nearest(torch.tensor([[0.04, 0.06, 0.8, 0.71]]), x), torch.tensor([[0.0, 0.1, 1.0, 1.0]])
    )
    torch.testing.assert_close(
        traits.inwards(torch.tensor([[0.04, 0.3, 0.8, 0.6]]), x), torch.tensor([[0.1, 0.1, 0.4, 1.0]])
    )
