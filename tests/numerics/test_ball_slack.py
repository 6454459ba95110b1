"""How far outside of the ball an input may lie, in every dtype and dimension, and how inputs are rounded into it."""

import math

import pytest
import torch

from robustsuite.core.ball import Ball
from robustsuite.core.radii import below_a_grey_level
from robustsuite.core.rounding import inwards

ORDER = {"linf": math.inf, "l2": 2, "l1": 1}
SHAPES = [(1, 28, 28), (3, 224, 224)]


def beyond(norm, radius, shape, dtype, share):
    """Inputs of one dtype at this share of the radius from the middle, as nearly as it allows."""
    x = torch.full((2, *shape), 0.5, dtype=dtype)
    width = math.prod(shape)
    each = {"linf": radius, "l2": radius / math.sqrt(width), "l1": radius / width}[norm] * share
    return x + torch.tensor(each, dtype=dtype), x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("norm", "radius"), [("linf", 8 / 255), ("l2", 0.25), ("l1", 1.0)])
def test_nothing_beyond_a_thousandth_of_the_radius_is_accepted(norm, radius, shape, dtype):
    ball = Ball(norm, radius, (0.0, 1.0))
    for share in (1.0005, 1.002, 1.01, 1.1, 1.5, 1.9, 5.0, 40.0):
        moved, x = beyond(norm, radius, shape, dtype, share)
        real = float(torch.linalg.vector_norm((moved.double() - x.double()).flatten(1), ORDER[norm], dim=1)[0]) / radius
        assert bool(ball.contains(moved, x).all()) <= (real <= 1.001), real


@pytest.mark.parametrize("scale", [1.0, 255.0, 65535.0])
@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 0.3), ("l1", 2.0)])
def test_a_projection_is_inside_however_large_the_inputs_are(norm, radius, scale):
    ball = Ball(norm, radius, (0.0, scale))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 32, 32, generator=generator) * scale
    moved = ball.project(x + torch.randn(x.shape, generator=generator) * radius * 3, x)
    assert bool(ball.contains(moved, x).all())
    assert float(ball.distance(moved, x).max()) <= radius * 1.001


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.02), ("l2", 0.2), ("l1", 1.0)])
def test_rounding_goes_to_numbers_of_the_dtype_inside(norm, radius, dtype):
    ball = Ball(norm, radius, (0.0, 1.0))
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(16, 1, 8, 8, generator=generator).to(dtype).float()
    moved = ball.project(x + torch.randn(x.shape, generator=generator) * 0.1, x)
    given = ball.rounded(moved, x, dtype)
    assert torch.equal(given.to(dtype).float(), given)
    assert bool(ball.contains(given, x).all())
    # It is one of the two numbers of the dtype around each coordinate.
    assert bool(((given - moved).abs() <= torch.finfo(dtype).eps * moved.abs().clamp_min(1e-4) * 2).all())


def test_whole_numbers_move_by_whole_steps_inside():
    x = torch.tensor([[3.0, 7.0, 250.0]])
    assert torch.equal(inwards(x + 0.9, x, torch.int64), x)
    assert torch.equal(inwards(x + 1.6, x, torch.int64), x + 1)
    assert torch.equal(inwards(x - 2.4, x, torch.uint8), x - 2)
    linf = Ball("linf", 0.1, (0.0, 255.0))
    assert torch.equal(linf.rounded(x + 0.1, x, torch.int64), x)


@pytest.mark.parametrize(
    ("ball", "shape", "small"),
    [
        (Ball("linf", 8 / 255, (0, 1)), (3, 32, 32), False),
        (Ball("linf", 0.1, (0, 255)), (1, 28, 28), True),
        (Ball("linf", 8 / 255, (0, 255)), (3, 32, 32), True),
        (Ball("linf", 8, (0, 255)), (3, 32, 32), False),
        (Ball("linf", 0.1, (0, 65535)), (1, 8, 8), True),
        (Ball("l2", 0.5, (0, 1)), (3, 224, 224), False),
        (Ball("l2", 0.5, (0, 255)), (3, 32, 32), True),
        (Ball("l1", 12, (0, 1)), (3, 32, 32), False),
        (Ball("linf", 0.0, (0, 255)), (3, 32, 32), False),
        (Ball("linf", 1e-4, (0, 1)), (20,), False),
    ],
)
def test_a_radius_below_a_grey_level_is_told(ball, shape, small):
    assert below_a_grey_level(ball, shape) == small
