"""Probabilities, computed or rounded, are told from logits that lie in [0, 1]."""

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.models.probabilities import are_probabilities, rounded_to

BALL = ("linf", 0.1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (torch.tensor([[0.2, 0.8], [1.0, 0.0]]), True),
        (torch.tensor([[0.2, 0.8], [0.6, 0.6]]), False),
        (torch.tensor([[1.2, -0.2]]), False),
        (torch.tensor([[1.0]]), False),
        (torch.tensor([0.4, 0.6]), False),
        (torch.tensor([[1, 0]]), False),
        (torch.tensor([[float("nan"), 1.0]]), False),
    ],
)
def test_probabilities_are_told_from_logits(answer, expected):
    assert are_probabilities(answer) is expected


def softmaxes(classes, n=200):
    generator = torch.Generator().manual_seed(classes)
    scale = torch.linspace(0.1, 12, n)[:, None]
    return (scale * torch.randn(n, classes, generator=generator)).softmax(1)


@pytest.mark.parametrize("decimals", [2, 3, 4])
@pytest.mark.parametrize("classes", [2, 3, 10, 50])
def test_whatever_rounds_from_probabilities_is_recognised(classes, decimals):
    """To two decimals, rows of 50 classes that are nearly alike sum to anything from 0.75 to 1.25."""
    rounded = softmaxes(classes).mul(10**decimals).round().div(10**decimals)
    assert are_probabilities(rounded)
    assert are_probabilities(rounded.double())
    assert rounded_to(rounded) == pytest.approx(10.0**-decimals)
    assert rounded_to(softmaxes(classes)) == 0.0


@pytest.mark.parametrize("classes", [2, 3, 10, 50])
@pytest.mark.parametrize("decimals", [None, 1, 2, 3])
def test_logits_within_zero_and_one_are_not(classes, decimals):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.rand(64, classes, generator=generator)
    logits = logits if decimals is None else logits.mul(10**decimals).round().div(10**decimals)
    assert not are_probabilities(logits)
    near = softmaxes(classes, 64)
    near[5] *= 1.3  # one row that sums to 1.3 on no grid, or on one that cannot be so far off
    assert not are_probabilities(near if decimals is None else near.mul(1000).round().div(1000))
    assert not are_probabilities(torch.zeros(8, classes))


def test_half_precision_sums_less_exactly():
    assert are_probabilities(softmaxes(10).bfloat16())
    assert are_probabilities(softmaxes(10).half())


class Rounding(nn.Module):
    """Answer with probabilities to two decimals; gradients pass through the rounding, as some servers have it."""

    def __init__(self, network, straight):
        super().__init__()
        self.network, self.straight = network, straight

    def forward(self, x):
        exact = self.network(x).softmax(1)
        rounded = (exact * 100).round() / 100
        return exact + (rounded - exact).detach() if self.straight else rounded


@pytest.fixture
def problem():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 7)).eval()
    x = torch.rand(40, 1, 4, 4)
    return network, x, network(x).argmax(1)


def test_rounded_probabilities_are_read_by_their_logarithms_wherever_the_model_is_asked(problem):
    network, x, y = problem
    model = Rounding(network, straight=True)
    declared = rs.wrap(model, output="probabilities")
    for attack in ("fgsm", "square(queries=20)"):
        assert torch.equal(rs.perturb(attack, model, x, y, BALL), rs.perturb(attack, declared, x, y, BALL))
    clean, fgsm = rs.evaluate(model, (x, y), "fgsm", BALL).records
    assert clean.metrics["clean_accuracy"].value > 0.9
    assert "probabilities" in fgsm.flags
    assert fgsm.status == "inconclusive"


def test_declared_probabilities_may_be_rounded(problem):
    """Seven entries to two decimals miss 1 by up to 0.035."""
    _, x, _ = problem
    row = torch.tensor([[0.15, 0.15, 0.15, 0.15, 0.15, 0.15, 0.13]])

    class Fixed(nn.Module):
        def forward(self, x):
            return row.expand(len(x), -1)

    assert torch.equal(rs.wrap(Fixed(), output="probabilities")(x), row.log().expand(40, -1))
