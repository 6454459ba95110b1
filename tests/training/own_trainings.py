"""Training functions as users have them, and some that misbehave."""

import random

import numpy as np
import torch
from torch import nn

CALLS = []
SHARED = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def taught(net, samples, seed, steps=40):
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(samples.inputs()), samples.y).backward()
        optimizer.step()
    return net


def flat(samples):
    return nn.Sequential(nn.Flatten(), nn.Linear(samples.inputs()[0].numel(), samples.classes))


def loop(samples, seed, device):
    """A plain loop, with a network of its own."""
    CALLS.append((samples, seed, device))
    torch.manual_seed(seed)
    return taught(flat(samples), samples, seed)


def tuned(samples, seed, build, steps=40):
    """A plain loop on the network that the recipe names."""
    CALLS.append((samples, seed))
    return taught(build(), samples, seed, steps)


class Scored(nn.Module):
    """A scikit-learn pipeline behind a thin module."""

    def __init__(self, pipeline, answer="decision_function"):
        super().__init__()
        self.pipeline, self.answer = pipeline, answer

    def forward(self, x):
        scores = getattr(self.pipeline, self.answer)(x.detach().flatten(1).cpu().numpy())
        return torch.from_numpy(np.asarray(scores)).float().to(x.device)


def pipeline(samples, seed, answer="decision_function"):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, random_state=seed))
    model.fit(samples.inputs().flatten(1).numpy(), samples.y.numpy())
    return Scored(model, answer)


class Tainted(nn.Module):
    """Answers by something that no state dict and no attribute shows."""

    def __init__(self, classes):
        super().__init__()
        self.weights, self.classes = nn.Linear(64, classes), classes

    def forward(self, x):
        return self.weights(x.flatten(1)) + OUTSIDE.get("shift", 0.0) * torch.arange(float(self.classes))


OUTSIDE = {}


def raises(samples):
    raise RuntimeError(f"no luck with {len(samples)} samples")


def exits():
    raise SystemExit(3)


def nothing():
    return "a network"


def too_narrow(samples):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, samples.classes - 1))


def not_finite(samples):
    net = flat(samples)
    nn.init.constant_(net[1].bias, float("nan"))
    return net


def of_other_inputs():
    return nn.Conv2d(7, 4, 3)


def writes(samples, seed):
    net = loop(samples, seed, "cpu")
    samples.x.zero_()
    samples.y.fill_(0)
    return net


def careless(samples, seed):
    """Leaves the process otherwise than it found it."""
    net = taught(flat(samples), samples, seed)
    net.train()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_grad_enabled(False)
    torch.use_deterministic_algorithms(mode=True)
    for draws in (random, np.random):
        draws.seed(1)
    torch.manual_seed(1)
    return net


def one_and_the_same(samples, seed):
    """Trains the same module each time."""
    return taught(SHARED, samples, seed)
