"""Networks and views that the attack tests share."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from robustsuite.access.meter import Meter
from robustsuite.access.oracles import AuxiliaryData
from robustsuite.access.views import make_view
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Served
from robustsuite.core.samples import Samples


def views(net, x, y, ball, access="white-box", *, ids=None, target=None, classes=10, budget=None):
    """A view of these samples as a scenario would hand it out."""
    common = {
        "x": x,
        "y": y,
        "ids": torch.arange(len(y)) if ids is None else ids,
        "ball": ball,
        "classes": classes,
        "target": target,
        "meter": Meter(),
    }
    held = Samples(x.float(), y, classes, ball.bounds or (0.0, 1.0), common["ids"]) if access == "transfer" else None
    return make_view(access, Served(net), common, budget, auxiliary=None if held is None else AuxiliaryData(held))


@pytest.fixture(scope="session")
def view_of():
    return views


def network(classes=10, channels=1, size=8):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (size // 2) ** 2, classes),
    )


@pytest.fixture(scope="session")
def fresh_network():
    return network


def _fit(x, y, radius, seconds_worth):
    """A few hundred steps of Adam; with a radius, on one-step adversarial inputs from a random start."""
    net = network()
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    ball = Ball("linf", radius, (0.0, 1.0))
    for _ in range(seconds_worth):
        rows = torch.randint(len(x), (64,))
        batch = x[rows]
        if radius:
            start = (batch + (torch.rand_like(batch) * 2 - 1) * radius).clamp(0, 1).requires_grad_()
            (slope,) = torch.autograd.grad(nn.functional.cross_entropy(net(start), y[rows]), start)
            batch = ball.project(ball.step(start.detach(), slope, 1.25 * radius), batch)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(batch), y[rows]).backward()
        optimizer.step()
    net.eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net


@pytest.fixture(scope="session")
def digits():
    """An undefended and an adversarially trained network, and 200 test digits that both get right, in [0, 1]."""
    data = load_digits()
    x = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    y = torch.tensor(data.target)
    plain, hardened = _fit(x[:1300], y[:1300], 0.0, 250), _fit(x[:1300], y[:1300], 0.15, 400)
    test, labels = x[1300:], y[1300:]
    right = (plain(test).argmax(1) == labels) & (hardened(test).argmax(1) == labels)
    rows = right.nonzero()[:200, 0]
    return {"plain": plain, "hardened": hardened, "x": test[rows], "y": labels[rows]}
