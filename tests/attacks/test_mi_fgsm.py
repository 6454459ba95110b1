"""MI-FGSM and its kin: what each map does, what the method is without them, and that they serve their purpose."""

import pytest
import torch

from robustsuite.attacks.evasion.mi_fgsm import MIFGSM, diversified, gaussian_kernel, resized, smoothed
from robustsuite.attacks.evasion.pgd import PGD
from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.streams import Streams

BALL = Ball("linf", 0.15, (0.0, 1.0))
KIN = {"diversity": {"diversity": 0.5}, "translation": {"translation": 3}, "scales": {"scales": 3},
       "nesterov": {"nesterov": True}}  # fmt: skip


def left_robust(net, moved, y):
    return int((net(moved).argmax(1) == y).sum())


@pytest.mark.parametrize("width", [1, 3, 7, 15])
def test_the_kernel_is_a_symmetric_average(width):
    kernel = gaussian_kernel(width, dtype=torch.float64)
    assert float(kernel.sum()) == pytest.approx(1.0, abs=1e-12)
    assert torch.equal(kernel, kernel.T)
    torch.testing.assert_close(kernel, kernel.flip(0, 1))
    assert int(kernel.argmax()) == width * width // 2


def test_the_kernel_is_the_papers():
    """`gkern(15, 3)` of its code: the density of a standard normal at 15 points from -3 to 3, as an outer product."""
    density = torch.distributions.Normal(0.0, 1.0).log_prob(torch.linspace(-3, 3, 15).double()).exp()
    wanted = torch.outer(density, density)
    torch.testing.assert_close(gaussian_kernel(15, dtype=torch.float64), wanted / wanted.sum())


def test_smoothing_a_peak_gives_the_kernel_and_keeps_channels_apart():
    peak = torch.zeros(2, 3, 9, 9, dtype=torch.float64)
    peak[0, 1, 4, 4] = 2.0
    blurred = smoothed(peak, 5)
    torch.testing.assert_close(blurred[0, 1, 2:7, 2:7], 2 * gaussian_kernel(5, dtype=torch.float64))
    assert float(blurred[0, [0, 2]].abs().sum()) == float(blurred[1].abs().sum()) == 0
    torch.testing.assert_close(smoothed(peak, 1), peak)


def test_a_shrunk_image_lies_where_it_was_put_and_the_rest_is_black():
    x = torch.ones(3, 2, 8, 8, dtype=torch.float64)
    share = torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64)
    corners = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.3, 0.3]], dtype=torch.float64)
    shrunk = resized(x, share, corners)
    for image, low, high in ((shrunk[0], 0, 4), (shrunk[1], 4, 8), (shrunk[2], 0, 8)):
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[low:high, low:high] = True
        torch.testing.assert_close(image[:, inside], torch.ones_like(image[:, inside]))
        assert float(image[:, ~inside].abs().sum()) == pytest.approx(0.0, abs=1e-12)


def test_diversity_is_drawn_per_sample_with_its_probability():
    ids, streams = torch.arange(400), Streams(0)
    x = streams.uniform(ids, (1, 10, 10))
    moved = diversified(x, ids, streams, probability=0.3, least=0.5)
    changed = (moved != x).flatten(1).any(1)
    assert 0.2 < float(changed.float().mean()) < 0.4
    assert torch.equal(diversified(x[7:9], ids[7:9], streams, probability=0.3, least=0.5), moved[7:9])
    assert torch.equal(diversified(x, ids, streams, probability=0.0, least=0.5), x)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_without_maps_it_is_pgd_with_momentum(norm, digits, view_of):
    net, x, y = digits["hardened"].double(), digits["x"].double(), digits["y"]
    ball = Ball(norm, {"linf": 0.15, "l2": 1.0, "l1": 5.0}[norm], (0.0, 1.0))
    ours = MIFGSM(steps=8)(view_of(net, x, y, ball), Streams(0))
    pgd = PGD(steps=8, step_size=1 / 8, momentum=1.0, random_start=False)(view_of(net, x, y, ball), Streams(0))
    digits["hardened"].float()
    torch.testing.assert_close(ours, pgd, rtol=0, atol=1e-9)


def test_maps_that_do_nothing_change_nothing(digits, view_of):
    net, x, y = digits["hardened"], digits["x"], digits["y"]
    plain = MIFGSM()(view_of(net, x, y, BALL), Streams(0))
    for options in ({"scales": 1}, {"translation": 1}, {"diversity": 0.0}, {"nesterov": True, "momentum": 0.0}):
        reference = plain if "momentum" not in options else MIFGSM(momentum=0.0)(view_of(net, x, y, BALL), Streams(0))
        moved = MIFGSM(**options)(view_of(net, x, y, BALL), Streams(0))
        torch.testing.assert_close(moved, reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kin", KIN)
def test_every_kin_attacks(kin, digits, view_of):
    net, x, y = digits["plain"], digits["x"], digits["y"]
    view = view_of(net, x, y, BALL)
    moved = MIFGSM(**KIN[kin])(view, Streams(0))
    assert bool(BALL.contains(moved, x).all())
    assert left_robust(net, moved, y) < 100
    assert view.meter.broken == set((net(moved).argmax(1) != y).nonzero()[:, 0].tolist())


def test_counted_passes(digits, view_of):
    """Nothing falls where targets are what a hopeless ball cannot reach."""
    net, x, y = digits["hardened"], digits["x"][:10], digits["y"][:10]
    tiny = Ball("linf", 1e-5, (0.0, 1.0))
    costs = {
        (): (110, 100),
        ("scales",): (310, 300),
        ("diversity",): (200, 100),
        ("nesterov",): (200, 100),
        ("translation",): (110, 100),
    }
    for kin, wanted in costs.items():
        view = view_of(net, x, y, tiny)
        MIFGSM(**{k: v for name in kin for k, v in KIN[name].items()})(view, Streams(0))
        assert (view.meter.forwards, view.meter.backwards) == wanted, kin


def test_what_takes_all_steps_transfers_better(digits, view_of):
    """Points barely beyond the border of one network are no errors of another."""
    source, other, x, y = digits["plain"], digits["hardened"], digits["x"], digits["y"]
    ball = Ball("linf", 0.25, (0.0, 1.0))
    left = {}
    for stop in (True, False):
        moved = MIFGSM(stop=stop)(view_of(source, x, y, ball), Streams(0))
        assert left_robust(source, moved, y) <= 2
        left[stop] = left_robust(other, moved, y)
    assert left[False] < left[True] - 20


def test_diverse_inputs_are_for_images(view_of):
    net = torch.nn.Linear(4, 3)
    view = view_of(net, torch.rand(2, 4), torch.zeros(2, dtype=torch.int64), BALL, classes=3)
    for options, words in (({"diversity": 0.5}, "diversity=0.5"), ({"translation": 3}, "translation=3")):
        with pytest.raises(RequestError, match=words):
            MIFGSM(**options)(view, Streams(0))
    with pytest.raises(RequestError, match="an odd width"):
        MIFGSM(translation=4)
