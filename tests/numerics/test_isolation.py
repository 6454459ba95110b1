"""Leave no trace: modes, weights, gradients, buffers and generators are as before, also when the body raises."""

import random
import traceback

import numpy as np
import pytest
import torch
from torch import nn

from robustsuite.core.isolation import differentiable, seeded, untouched


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    net[1].eval()  # a frozen BatchNorm inside a model in training mode
    net[0].weight.requires_grad_(False)
    net[3].weight.grad = torch.full((3, 6), 2.0)
    return net


def state(net):
    return (
        [part.training for part in net.modules()],
        [p.requires_grad for p in net.parameters()],
        [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        {name: value.clone() for name, value in net.state_dict().items()},
    )


def same(a, b):
    pairs = list(zip(a[2], b[2], strict=True))
    grads = all(p is q is None or (p is not None and q is not None and torch.equal(p, q)) for p, q in pairs)
    return a[:2] == b[:2] and grads and all(torch.equal(a[3][name], b[3][name]) for name in a[3])


def meddle(net):
    """Everything that a careless attack does to a model."""
    net.train()
    net(torch.randn(8, 4))
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    net(torch.randn(8, 4)).sum().backward()


@pytest.mark.parametrize("caller", [torch.enable_grad, torch.no_grad])
def test_a_meddled_model_is_restored(net, caller):
    before = state(net)
    with caller(), untouched(net), differentiable():
        assert not any(part.training for part in net.modules())
        meddle(net)
    assert same(state(net), before)


def test_a_model_is_restored_when_the_body_raises(net):
    before = state(net)

    def body():
        with untouched(net):
            meddle(net)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        body()
    assert same(state(net), before)


def test_meddling_is_seen_where_nothing_isolates(net):
    before = state(net)
    meddle(net)
    assert not same(state(net), before)


def test_inference_mode_allows_gradients_inside(net):
    before = state(net)
    with torch.inference_mode():
        with untouched(net), differentiable():
            x = torch.ones(2, 4, requires_grad=True)
            (slope,) = torch.autograd.grad(net(x).sum(), x)
        assert torch.is_inference_mode_enabled()
    assert slope.abs().sum() > 0
    assert same(state(net), before)


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(1))


@pytest.mark.parametrize("raises", [False, True])
def test_global_generators_are_seeded_inside_and_restored_outside(raises):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    undisturbed = [draws(), draws()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    got = [draws()]
    inside = []
    try:
        with seeded(2**63 + 5):
            inside = draws()
            if raises:
                raise RuntimeError
    except RuntimeError:
        pass
    got.append(draws())
    assert got == undisturbed
    with seeded(2**63 + 5):
        assert draws() == inside


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a device, whose generator is seeded at once")
def test_seeding_keeps_nothing_for_devices_that_are_not_there(monkeypatch):
    formatted = []
    monkeypatch.setattr(traceback, "format_stack", lambda *_: formatted.append(1))
    torch.manual_seed(1)
    assert formatted, "what torch does for them"
    formatted.clear()
    with seeded(1):
        inside = torch.rand(1)
    assert formatted == []
    assert torch.equal(inside, torch.rand(1, generator=torch.Generator().manual_seed(1)))


def test_seeding_asks_once_whether_there_is_a_device(monkeypatch):
    """Each time torch would look for a driver's library on the disk."""
    with seeded(1):
        pass
    monkeypatch.setattr(torch.accelerator, "is_available", pytest.fail)
    monkeypatch.setattr(torch.cuda, "is_available", pytest.fail)
    with seeded(1):
        assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(1)))
