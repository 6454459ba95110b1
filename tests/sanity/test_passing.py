"""Straight-through by interception: values are kept, and what stops a gradient lets it pass."""

import pytest
import torch
import torch.nn.functional as F

from robustsuite.scenarios.evasion.sanity.straight_through import Passing


@torch.no_grad()
def _decorated(x):
    return 2 * x


def _under_no_grad(x):
    with torch.no_grad():
        return 2 * x


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (lambda x: (x * 7).round() / 7, 1.0),
        (lambda x: torch.floor(x * 7) / 7, 1.0),
        (torch.Tensor.sign, 1.0),
        (lambda x: x.detach() * 3, 3.0),
        (lambda x: x.data * 3, 3.0),
        (_decorated, 2.0),
        (_under_no_grad, 2.0),
        (lambda x: x.detach().clone().requires_grad_(True) * 2, 2.0),
    ],
)
def test_values_are_kept_and_gradients_pass(function, slope):
    x = torch.rand(4, 3)
    leaf = x.clone().requires_grad_(True)
    with Passing(4, 3):
        result = function(leaf)
    assert torch.equal(result.detach(), function(x).detach())
    (found,) = torch.autograd.grad(result.sum(), leaf)
    torch.testing.assert_close(found, torch.full_like(x, slope))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x > 0.5).float(),
        lambda x: (x >= 0.5).to(x.dtype),
        lambda x: torch.where(x > 0.5, torch.ones(()), torch.zeros(())),
        lambda x: (x > 0.5) * torch.ones(4, 3),
        lambda x: 1 - (~(x > 0.5)).float() * 1.0,
    ],
)
def test_a_comparison_rises_with_its_operand(function):
    x = torch.rand(4, 3)
    leaf = x.clone().requires_grad_(True)
    with Passing(4, 3, width=0.1):
        result = function(leaf)
    torch.testing.assert_close(result.detach(), function(x), atol=1e-6, rtol=0)
    (found,) = torch.autograd.grad(result.sum(), leaf)
    want = torch.sigmoid((x - 0.5) / 0.1) * torch.sigmoid((0.5 - x) / 0.1) / 0.1
    torch.testing.assert_close(found, want)


def test_nothing_is_hung_on_tensors():
    leaf = torch.rand(4, 3, requires_grad=True)
    with Passing(4, 3):
        made = [leaf > 0.5, leaf.argmax(1), F.one_hot(leaf.argmax(1), 3)]
    assert [vars(tensor) for tensor in made] == [{}, {}, {}]
    with Passing(4, 3):
        assert not made[0].float().requires_grad


def test_the_code_of_an_arg_max_has_the_slope_of_a_softmax():
    z = torch.randn(4, 3)
    leaf = z.clone().requires_grad_(True)
    weights = torch.tensor([1.0, 2.0, 5.0])
    with Passing(4, 3):
        result = F.one_hot(leaf.argmax(1), 3).float()
    assert torch.equal(result.detach(), F.one_hot(z.argmax(1), 3).float())
    (found,) = torch.autograd.grad((result * weights).sum(), leaf)
    other = z.clone().requires_grad_(True)
    (want,) = torch.autograd.grad((other.softmax(1) * weights).sum(), other)
    torch.testing.assert_close(found, want)


def test_it_sees_entries_cuts_and_gradients_inside():
    x, weight = torch.rand(4, 5), torch.rand(3, 5)
    leaf = x.clone().requires_grad_(True)
    with Passing(4, 3) as seen:
        first = F.linear(leaf, weight)
        _ = first.softmax(1) * 2  # made of something that is (4, 3) already
        decided = first.amax(1) > 0.5
        inner = leaf.detach().clone().requires_grad_(True)
        torch.autograd.grad(inner.square().sum(), inner)
    assert [e.shape for e in seen.entries] == [(4, 3)]
    assert torch.equal(seen.entries[0], first)
    assert len(seen.cuts) == 1
    assert torch.equal(seen.cuts[0][1] > 0, decided)
    assert seen.inside == 1


def test_quietly_nothing_changes():
    x = torch.rand(4, 3, requires_grad=True)
    with Passing(4, 3, quiet=True):
        assert not x.detach().requires_grad
        assert float(torch.autograd.grad(x.round().sum(), x)[0].abs().sum()) == 0
