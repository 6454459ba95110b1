"""Three gates on one model of handwritten digits: one that passes, one that fails, one that cannot tell.

Run it with `pytest examples/checks/test_three_gates.py`: one test passes and two fail, as they should.
"""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

pytestmark = pytest.mark.security


@pytest.fixture(scope="module")
def digits():
    """A small network with its held-out digits, `(N, 1, 8, 8)` in [0, 1]."""
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(400):
            rows = torch.randint(1300, (64,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model, (x[1300:1600], y[1300:1600])


def test_withstands_small_changes(robustness, digits):
    """Passes: the whole interval is above the floor."""
    model, data = digits
    robustness.assert_robust(model, data, attack="pgd", ball=("linf", 0.02), at_least=0.75)


def test_withstands_large_changes(robustness, digits):
    """Fails: the whole interval is below the floor."""
    model, data = digits
    robustness.assert_robust(model, data, attack="pgd", ball=("linf", 0.3), at_least=0.80)


def test_withstands_changes_in_between(robustness, digits):
    """Inconclusive: the interval holds the floor, so more samples are needed before anybody can tell."""
    model, (x, y) = digits
    robustness.assert_robust(model, (x[:60], y[:60]), attack="pgd", ball=("linf", 0.06), at_least=0.80)
