"""Four clouds of points, a network that tells them apart, and what may stand in front of its answers."""

import torch
import torch.nn.functional as F
from torch import nn


def clouds(width):
    """400 inputs of so many values in [0, 1], and their labels."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(4, width, generator=generator) * 0.5 + 0.25
    y = torch.arange(400) % 4
    x = (centres[y] + 0.08 * torch.randn(400, width, generator=generator)).clamp(0, 1)
    return x, y


def fitted(x, y):
    """An undefended network."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


class Behind(nn.Module):
    """A network behind a function; it says nothing of what it is."""

    def __init__(self, net, function):
        super().__init__()
        self.net, self.function = net, function

    def forward(self, x):
        return self.function(self.net, x)
