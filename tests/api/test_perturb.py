"""`rs.perturb`: in the ball, in any batch size, for targets, and refused where it makes no sense."""

import pytest
import torch

import robustsuite as rs
from robustsuite.testing.victims import tiny_network, tiny_samples

BALL = rs.Ball("linf", 0.2)


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.2), ("l2", 1.0), ("l1", 4.0)])
def test_stays_in_the_ball_and_hurts(network, digits, norm, radius):
    _, _, x, y = digits
    ball = rs.Ball(norm, radius)
    moved = rs.perturb(rs.attack("pgd", steps=20), network, x, y, ball)
    assert moved.shape == x.shape
    assert moved.dtype == x.dtype
    assert ball.within((0.0, 1.0)).contains(moved, x).all()
    accuracy = [(network(inputs).argmax(1) == y).float().mean() for inputs in (x, moved)]
    assert accuracy[1] < accuracy[0] - 0.2


def test_wrongly_classified_samples_are_attacked_too(network, digits):
    _, _, x, y = digits
    wrong = (y + 1) % 10
    moved = rs.perturb("pgd(steps=5)", network, x, wrong, BALL)
    assert moved.shape == x.shape


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_batch_size_changes_nothing(network, digits, batch_size):
    _, _, x, y = digits
    x, y = x[:23], y[:23]
    expected = rs.perturb("pgd(steps=6)", network, x, y, BALL, seed=3)
    assert torch.allclose(
        rs.perturb("pgd(steps=6)", network, x, y, BALL, seed=3, batch_size=batch_size), expected, atol=1e-6
    )


def test_targets_belong_to_their_rows_in_every_batch(network, digits):
    _, _, x, y = digits
    right = network(x).argmax(1) == y
    x, y = x[right][:50], y[right][:50]
    target = (y + 1 + torch.arange(50) % 8) % 10
    ball = rs.Ball("linf", 0.5)
    for batch_size in (50, 9):
        moved = rs.perturb("pgd(steps=40)", network, x, y, ball, target=target, batch_size=batch_size)
        hits = (network(moved).argmax(1) == target).float().mean()
        assert hits > 0.9


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"attack": "badnets"}, "an evasion attack, got attack='badnets'"),
        ({"attack": "pdg"}, "did you mean pgd"),
        ({"ball": ("linf", 0.1, 0.2, 0.3)}, r"write \('linf', 8 / 255\)"),
        ({"ball": None}, "ball=None"),
        ({"target": torch.zeros(3, dtype=torch.long)}, r"target\.shape=\(3,\)"),
        ({"target": torch.full((10,), 10)}, r"target\[0\]=10"),
        ({"target": torch.full((10,), 0.5)}, r"whole numbers as labels, got target\[0\]=0.5"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": 1.5}, "seed=1.5"),
    ],
)
def test_wrong_requests(network, digits, change, told):
    _, _, x, y = digits
    request = {"attack": "pgd", "model": network, "x": x[:10], "y": y[:10], "ball": BALL, **change}
    with pytest.raises(rs.RequestError, match=told):
        rs.perturb(request.pop("attack"), **request)


@pytest.mark.parametrize("equal", [[4], [0, 9], list(range(10))], ids=len)
def test_a_target_that_is_the_label_is_refused(network, digits, equal):
    """There would be nothing to reach: the label is what the model should say."""
    _, _, x, y = digits
    target = (y[:10] + 1) % 10
    assert rs.perturb("pgd(steps=2)", network, x[:10], y[:10], BALL, target=target).shape == x[:10].shape
    target[equal] = y[equal]
    said = (
        rf"expected targets other than the labels, got target\[{equal[0]}\]={int(y[equal[0]])}; .* {len(equal)} of 10"
    )
    with pytest.raises(rs.RequestError, match=said):
        rs.perturb("pgd(steps=2)", network, x[:10], y[:10], BALL, target=target)


def test_double_precision_models_get_double_inputs(network, digits):
    _, _, x, y = digits
    moved = rs.perturb("pgd(steps=5)", network.double(), x[:10].double(), y[:10], BALL)
    assert moved.dtype == torch.float64
    assert BALL.within((0.0, 1.0)).contains(moved, x[:10].double()).all()


def test_targeted_and_untargeted_game_against_the_judge(network, digits):
    """The judge and `perturb` play the same attack: what `perturb` finds, `evaluate` counts."""
    _, _, x, y = digits
    report = rs.evaluate(network, (x, y), "pgd(steps=20)", BALL)
    clean = network(x).argmax(1) == y
    moved = rs.perturb("pgd(steps=20)", network, x, y, BALL)
    robust = (clean & (network(moved).argmax(1) == y)).float().mean()
    assert report.records[1].metrics["robust_accuracy"].value == pytest.approx(float(robust), abs=0.0051)


@pytest.mark.parametrize("attack", ["square(queries=40)", "hop-skip-jump(queries=60)"])
def test_oracles_answer_from_the_same_fast_copy_as_in_a_game(attack):
    """One path: the original is asked only where rounding may decide."""
    calls = []

    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_network()

        def forward(self, x):
            calls.append((id(self), x))  # also what tracing hands through, which has no length
            return self.inner(x)

    network, samples = Watched().eval(), tiny_samples(24, first=10_000)
    ball = rs.Ball("linf", 0.06)
    moved = rs.perturb(attack, network, samples.x, samples.y, ball)
    sizes = [(who, len(x)) for who, x in calls if isinstance(x, torch.Tensor)]
    assert sum(n for who, n in sizes if who == id(network)) < 0.3 * sum(n for _, n in sizes)
    if "square" not in attack:
        return  # an attack of minimum norm is let look farther in a game
    report = rs.evaluate(network, (samples.x, samples.y), attack, ball)
    clean, robust = (network(x).argmax(1) == samples.y for x in (samples.x, moved))
    assert report.records[-1].metrics["robust_accuracy"].value == float((clean & robust).double().mean())
