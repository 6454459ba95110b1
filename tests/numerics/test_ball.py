"""The ball against its definition: projection, steepest step, samples, membership."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from robustsuite.core.ball import Ball, poison_budget
from robustsuite.core.errors import RequestError
from robustsuite.core.streams import Streams

NORMS = ("linf", "l2", "l1")
ORDERS = {"linf": float("inf"), "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": float("inf")}
BOUNDS = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), None)


def _inside(n, width, bounds, dtype, seed=0):
    low, high = bounds or (-3.0, 3.0)
    x = Streams(seed).child("x").uniform(torch.arange(n), (width,), dtype=torch.float64) * (high - low) + low
    x[:, ::3] = low  # a third of the coordinates on the edge, as in images
    return x.to(dtype)


def _solved(point, centre, radius, norm, bounds):
    """The projection by a general solver (SLSQP) from the definition; l1 as |d| = u + v with u, v >= 0."""
    low, high = bounds or (-np.inf, np.inf)
    width = len(point)
    if norm == "l1":
        offset = centre - point
        split = np.hstack([np.eye(width), -np.eye(width)])
        found = optimize.minimize(
            lambda w: 0.5 * np.sum((split @ w + offset) ** 2),
            np.zeros(2 * width),
            jac=lambda w: split.T @ (split @ w + offset),
            bounds=[(0, high - c) for c in centre] + [(0, c - low) for c in centre],
            constraints={"type": "ineq", "fun": lambda w: radius - w.sum(), "jac": lambda w: -np.ones(2 * width)},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return centre + split @ found.x
    box = [(max(low, c - radius), min(high, c + radius)) for c in centre]
    inside = {"type": "ineq", "fun": lambda z: radius**2 - np.sum((z - centre) ** 2), "jac": lambda z: 2 * (centre - z)}
    found = optimize.minimize(
        lambda z: 0.5 * np.sum((z - point) ** 2),
        centre,
        jac=lambda z: z - point,
        bounds=box,
        constraints=[inside] if norm == "l2" else [],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_projection_is_the_nearest_point(norm, bounds, data):
    unit = st.floats(0, 1, width=32)
    centre = np.array(data.draw(st.lists(unit, min_size=4, max_size=4)))
    point = centre + np.array(data.draw(st.lists(st.floats(-2, 2, width=32), min_size=4, max_size=4)))
    radius = data.draw(st.floats(0.05, 1.5))
    got = Ball(norm, radius, bounds).project(torch.tensor(point)[None], torch.tensor(centre)[None])[0].numpy()
    wanted = _solved(point, centre, radius, norm, bounds)
    assert np.linalg.norm(got - centre, ord=ORDERS[norm]) <= radius + 1e-9
    # The solver may stop early, so it bounds ours from above; uniqueness makes equal distances equal points.
    assert np.linalg.norm(got - point) <= np.linalg.norm(wanted - point) + 1e-7


def test_projection_where_every_coordinate_is_first_held_by_its_bound():
    """The l1 threshold has slope zero at its start here; min(1 - t, room) sums to the radius at t = 0.90234375."""
    centre = torch.tensor([[0.984375, 0.8984375, 0.0, 0.8984375]], dtype=torch.float64)
    moved = centre + torch.tensor([[1.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
    got = Ball("l1", 0.2109375, (0.0, 1.0)).project(moved, centre)
    wanted = torch.tensor([[1.0, 0.99609375, 0.0, 0.99609375]], dtype=torch.float64)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_in_many_dimensions(norm, bounds, dtype):
    scale = 1.0 if bounds is None else bounds[1] - bounds[0]
    x = _inside(16, 300, bounds, dtype)
    ball = Ball(norm, {"linf": 0.1, "l2": 1.0, "l1": 5.0}[norm] * scale, bounds)
    point = x + Streams(1).normal(torch.arange(16), (300,), dtype=dtype) * scale
    got = ball.project(point, x)
    assert bool(ball.contains(got, x).all())
    # A projection onto a convex set makes no acute angle with any feasible point.
    for seed in range(5):
        feasible = ball.sample(x, torch.arange(16), Streams(seed))
        cosine = ((point - got) * (feasible - got)).double().sum(1)
        assert float(cosine.max()) <= 1e-4 * scale**2
    again = ball.project(got, x)
    torch.testing.assert_close(again, got, rtol=0, atol=4e-6 * scale)
    interior = x + 0.5 * (got - x)
    torch.testing.assert_close(ball.project(interior, x), interior, rtol=0, atol=1e-6 * scale)


def test_projection_reaches_the_boundary_where_it_has_to():
    x = _inside(8, 50, (0.0, 1.0), torch.float64)
    for norm, radius in (("l2", 0.8), ("l1", 2.0)):
        ball = Ball(norm, radius, (0.0, 1.0))
        got = ball.project(x + Streams(2).normal(torch.arange(8), (50,), dtype=torch.float64), x)
        torch.testing.assert_close(ball.distance(got, x), torch.full((8,), radius, dtype=torch.float64))


def test_one_projection_after_the_other_is_not_the_projection():
    """What most libraries do (scale to the ball, then clip) is feasible but farther away."""
    x = torch.zeros(1, 2, dtype=torch.float64)
    point = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    ball = Ball("l2", 1.0, (0.0, 1.0))
    in_turn = (x + (point - x) / (point - x).norm()).clamp(0, 1)
    got = ball.project(point, x)
    torch.testing.assert_close(got, torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    assert float((got - point).norm()) < float((in_turn - point).norm()) - 0.01


def test_an_interior_point_is_not_moved_outwards():
    x = torch.full((3, 10), 0.5, dtype=torch.float64)
    moved = x + 1e-3
    for norm in NORMS:
        assert torch.allclose(Ball(norm, 5.0, (0.0, 1.0)).project(moved, x), moved, rtol=0, atol=1e-15)


@pytest.mark.parametrize("norm", NORMS)
def test_radius_zero_projects_to_the_centre_exactly(norm):
    x = _inside(4, 9, (0.0, 1.0), torch.float32)
    ball = Ball(norm, 0.0, (0.0, 1.0))
    assert torch.equal(ball.project(x + torch.randn(4, 9), x), x)
    assert torch.equal(ball.sample(x, torch.arange(4), Streams(0)), x)


@pytest.mark.parametrize("norm", NORMS)
def test_far_points_of_great_size_stay_within(norm):
    x = _inside(4, 1, (0.0, 1.0), torch.float32)
    for far in (1e4, 1e12, 1e20):
        ball = Ball(norm, 0.01)
        assert bool(ball.contains(ball.project(x + far, x), x).all())


@pytest.mark.parametrize("norm", NORMS)
def test_the_step_is_the_steepest(norm):
    gradient = Streams(3).normal(torch.arange(6), (20,), dtype=torch.float64)
    x = torch.zeros_like(gradient)
    ball = Ball(norm, 1.0)
    moved = ball.step(x, gradient, 0.7)
    gain = (moved * gradient).sum(1)
    torch.testing.assert_close(ball.distance(moved, x), torch.full((6,), 0.7, dtype=torch.float64))
    torch.testing.assert_close(gain, 0.7 * torch.linalg.vector_norm(gradient, ord=DUAL[norm], dim=1))
    for seed in range(20):
        other = Ball(norm, 0.7).sample(x, torch.arange(6), Streams(seed))
        assert bool(((other * gradient).sum(1) <= gain + 1e-12).all())


@pytest.mark.parametrize("norm", NORMS)
def test_tiny_and_zero_gradients(norm):
    """A saturated model's gradient of 1e-25 points somewhere; a gradient of zero points nowhere."""
    gradient = torch.zeros(2, 8)
    gradient[0] = 1e-25 * torch.tensor([1.0, -2, 3, -4, 5, -6, 7, -8])
    moved = Ball(norm, 1.0).step(torch.zeros(2, 8), gradient, 1.0)
    large = Ball(norm, 1.0).step(torch.zeros(1, 8), gradient[:1] * 1e25, 1.0)
    torch.testing.assert_close(moved[:1], large)
    assert torch.equal(moved[1], torch.zeros(8))


def test_steps_of_length_per_sample_and_l1_share():
    gradient = Streams(4).normal(torch.arange(2), (10,))
    lengths = torch.tensor([0.5, 2.0])
    for norm in NORMS:
        ball = Ball(norm, 1.0)
        torch.testing.assert_close(
            ball.distance(ball.step(torch.zeros(2, 10), gradient, lengths), torch.zeros(2, 10)).float(), lengths
        )
    spread = Ball("l1", 1.0).step(torch.zeros(2, 10), gradient, 1.0, share=0.3)
    assert (spread != 0).sum(1).tolist() == [3, 3]
    torch.testing.assert_close(spread.abs().sum(1), torch.ones(2))


def test_l1_steps_skip_coordinates_that_are_stuck_at_a_bound():
    x = torch.tensor([[1.0, 0.5, 0.0]])
    gradient = torch.tensor([[9.0, 1.0, -5.0]])
    assert torch.equal(Ball("l1", 1.0, (0.0, 1.0)).step(x, gradient, 0.25), torch.tensor([[1.0, 0.75, 0.0]]))


@pytest.mark.parametrize("norm", NORMS)
def test_samples_are_uniform_in_the_ball(norm):
    """Distances to the power D are uniform, and so is the sign of each coordinate."""
    n, width, radius = 4000, 5, 0.3
    x = torch.zeros(n, width, dtype=torch.float64)
    ball = Ball(norm, radius)
    drawn = ball.sample(x, torch.arange(n), Streams(5))
    assert bool(ball.contains(drawn, x).all())
    depth = (torch.linalg.vector_norm(drawn, ord=ORDERS[norm], dim=1) / radius) ** width
    assert stats.kstest(depth.numpy(), "uniform").pvalue > 1e-3
    share = (drawn > 0).double().mean(0)
    assert float((share - 0.5).abs().max()) < 4 * 0.5 / n**0.5
    assert float(np.abs(np.corrcoef(drawn.T.numpy()) - np.eye(width)).max()) < 0.08
    # Within a sphere of half the radius lies exactly 2^-D of the volume.
    assert abs(float((depth < 0.5**width).double().mean()) - 0.5**width) < 0.015


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_and_steps_lie_within_the_ball_and_the_bounds(norm, bounds, dtype):
    scale = bounds[1] - bounds[0]
    x = _inside(32, 64, bounds, dtype)
    ball = Ball(norm, {"linf": 8 / 255, "l2": 0.5, "l1": 4.0}[norm] * scale, bounds)
    assert bool(ball.contains(ball.sample(x, torch.arange(32), Streams(0)), x).all())
    moved = ball.project(ball.step(x, torch.randn_like(x), 2 * ball.radius, share=0.1), x)
    assert bool(ball.contains(moved, x).all())
    assert moved.dtype == dtype


def test_the_boundary_is_inside_and_the_tolerance_is_small():
    for dtype, slack in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x = _inside(1, 100_000, (0.0, 1.0), dtype) * (1 - 8 / 255)
        ball = Ball("linf", "8/255", (0.0, 1.0))
        assert bool(ball.contains(x + 8 / 255, x).all())
        assert not bool(ball.contains(x + 8 / 255 + slack, x).any())
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    for norm, unit in (("linf", 1.0), ("l2", 0.5), ("l1", 0.25)):
        ball = Ball(norm, 0.3, (0.0, 1.0))
        verdicts = [bool(ball.contains(x + unit * 0.3 * factor, x)) for factor in (1 - 1e-7, 1.0, 1 + 1e-7)]
        assert verdicts == [True, True, False]


def test_bounds_and_non_finite_numbers_are_never_within():
    x = torch.full((1, 4), 0.0)
    ball = Ball("linf", 0.3, (0.0, 1.0))
    assert not bool(ball.contains(x - 1e-7, x))
    assert not bool(ball.contains(x + float("nan"), x))
    assert not bool(Ball("l2", 0.3).contains(x + float("inf"), x))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("l3", 0.1), "norm='l3'"),
        (("linf", -0.1), "radius=-0.1"),
        (("linf", "8/0"), "radius='8/0'"),
        (("linf", 0.1, (1.0, 0.0)), "bounds="),
        (("linf", float("nan")), "radius=nan"),
    ],
)
def test_bad_balls_are_refused_with_their_value(arguments, words):
    with pytest.raises(RequestError, match="expected") as caught:
        Ball(*arguments)
    assert words in str(caught.value)


def test_poison_budgets_are_integers():
    assert [poison_budget(f, 1000) for f in (0.0, 0.0001, 0.01, 0.29, 1.0)] == [0, 1, 10, 290, 1000]
    with pytest.raises(RequestError, match="fraction"):
        poison_budget(1.5, 10)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_no_inputs_are_no_verdicts(norm):
    none = torch.zeros(0, 1, 8, 8)
    assert Ball(norm, 0.3, (0.0, 1.0)).contains(none, none).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_at_a_bound_chooses_no_coordinate(dtype):
    """A coordinate within rounding of the bound that it would leave has no room, just as one on it."""
    ball, gradient = Ball("l1", 1.0, (0.0, 1.0)), torch.tensor([[3.0, -2.0, 1.0]], dtype=dtype)
    near = 4 * torch.finfo(dtype).eps
    for x in ([1.0, 0.0, 0.5], [1.0 - near, near, 0.5]):
        here = torch.tensor([x], dtype=dtype)
        assert (ball.step(here, gradient, 0.25) - here).tolist() == [[0.0, 0.0, 0.25]]
    here = torch.tensor([[1.0 - 1e-3, 0.0, 0.5]], dtype=dtype)
    moved = ball.step(here, gradient, 0.25) - here
    assert moved[0, 0] > 0.24
    assert moved[0, 1:].tolist() == [0.0, 0.0]
