"""The model that the checks look at where none is named: a kernel machine on handwritten digits, trained in seconds."""

from functools import cache

import torch
from torch import nn

import robustsuite as rs
from robustsuite.training import Recipe, Trainer


class KernelMachine(nn.Module):
    """Softmax regression on random features of a Gaussian kernel (Rahimi and Recht, NIPS 2007): logits `(N, 10)`."""

    def __init__(self, features=1500, bandwidth=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("frequencies", bandwidth * torch.randn(64, features, generator=generator))
        self.register_buffer("phases", 2 * torch.pi * torch.rand(features, generator=generator))
        self.head = nn.Linear(features, 10)

    def features(self, x):
        return (x.flatten(1) @ self.frequencies + self.phases).cos() * (2 / len(self.phases)) ** 0.5

    def forward(self, x):
        return self.head(self.features(x))


def trained(x, y, bandwidth=1.0):
    """Fit one by full batches."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = KernelMachine(bandwidth=bandwidth)
        optimizer = torch.optim.Adam(network.head.parameters(), 0.1)
        known = network.features(x)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network.head(known), y).backward()
            optimizer.step()
    return network.eval()


@cache
def model():
    """The network."""
    digits = rs.load_data("digits", "train")
    return trained(digits.inputs(), digits.y)


@cache
def service():
    """The network behind input validation, which rejects what is malformed or far from the digits."""
    detectors = ("range", "feature-distance")
    defense = rs.defense("input-validation", detectors=detectors, false_alarm_rate=0.05)
    recipe = defense(Recipe(build=lambda *_: model()))
    trainer = Trainer(0, part={"calibration": rs.load_data("digits", "calibration")}.get)
    return trainer.deploy(recipe, model(), rs.load_data("digits", "train")).model
