"""Really trained small networks on digits, and a witness of everything that must be left as it was."""

import copy
import random

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn


def train(network, x, y, steps=300, seed=0):
    """Adam on minibatches; a one-column output is trained as the logit of class 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in network.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(steps):
            rows = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            out = network(x[rows])
            if out.dim() == 2 and out.shape[1] > 1:
                loss = nn.functional.cross_entropy(out, y[rows])
            else:
                loss = nn.functional.binary_cross_entropy_with_logits(out.reshape(-1), y[rows].to(out.dtype))
            loss.backward()
            optimizer.step()
    optimizer.zero_grad()
    return network


def mlp(outputs=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, outputs))


@pytest.fixture(scope="session")
def fitted():
    """The training function."""
    return train


@pytest.fixture(scope="session")
def digits():
    """Training and test digits `(N, 1, 8, 8)` in [0, 1]: x, y, test_x, test_y."""
    data = load_digits()
    x, y = torch.tensor(data.images / 16, dtype=torch.float32)[:, None], torch.tensor(data.target)
    return x[:1300], y[:1300], x[1300:1500], y[1300:1500]


@pytest.fixture(scope="session")
def _network(digits):
    return train(mlp(), *digits[:2]).eval()


@pytest.fixture
def network(_network):
    """A trained network in eval mode, a copy for each test."""
    return copy.deepcopy(_network)


@pytest.fixture(scope="session")
def make_mlp():
    return mlp


class Witness:
    """What a model, some tensors and the global generators were."""

    def __init__(self, model, *tensors):
        self.model, self.tensors = model, tensors
        self.copies = [t.clone() for t in tensors]
        self.state = {k: v.clone() for k, v in model.state_dict().items()}
        self.modes = {name: part.training for name, part in model.named_modules()}
        self.wants = {name: p.requires_grad for name, p in model.named_parameters()}
        self.grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
        self.grad_objects = {name: id(p.grad) for name, p in model.named_parameters()}
        self.generators = self._generators()

    @staticmethod
    def _generators():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    def check(self):
        assert all(torch.equal(a, b) for a, b in zip(self.tensors, self.copies, strict=True)), "inputs"
        state = self.model.state_dict()
        assert state.keys() == self.state.keys()
        assert all(torch.equal(state[k], v) for k, v in self.state.items()), "weights and buffers"
        assert {n: part.training for n, part in self.model.named_modules()} == self.modes, "modes"
        assert {n: p.requires_grad for n, p in self.model.named_parameters()} == self.wants, "requires_grad"
        for name, parameter in self.model.named_parameters():
            before = self.grads[name]
            assert (parameter.grad is None) == (before is None), name
            assert before is None or torch.equal(parameter.grad, before), name
            assert id(parameter.grad) == self.grad_objects[name], name
        assert self._generators() == self.generators, "global random state"


@pytest.fixture
def witness():
    return Witness
