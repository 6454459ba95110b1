"""What attacks ascend, against definitions."""

import pytest
import torch

from robustsuite.core import losses

CLASSES = (2, 3, 4, 10, 200)


@pytest.mark.parametrize("classes", CLASSES)
def test_cross_entropy_is_the_negative_log_probability(classes):
    logits = torch.randn(20, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % classes
    target = (y + 1) % classes
    probability = logits.exp() / logits.exp().sum(1, keepdim=True)
    wanted = -probability[torch.arange(20), y].log()
    torch.testing.assert_close(losses.cross_entropy(logits, y), wanted)
    torch.testing.assert_close(losses.cross_entropy(logits, y, target), probability[torch.arange(20), target].log())


@pytest.mark.parametrize("classes", CLASSES)
def test_the_margin_is_positive_exactly_where_the_goal_is_reached(classes):
    logits = torch.randn(500, classes, generator=torch.Generator().manual_seed(1))
    y = torch.arange(500) % classes
    target = (y + 1) % classes
    assert torch.equal(losses.margin(logits, y) > 0, logits.argmax(1) != y)
    assert torch.equal(losses.margin(logits, y, target) > 0, logits.argmax(1) == target)


@pytest.mark.parametrize("loss", losses.NAMED.values(), ids=losses.NAMED)
@pytest.mark.parametrize("targeted", [False, True])
def test_losses_are_per_sample_and_differentiable(loss, targeted):
    logits = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    y = torch.arange(6) % 5
    target = (y + 2) % 5 if targeted else None
    assert torch.autograd.gradcheck(lambda z: loss(z, y, target), logits)
    whole = loss(logits, y, target)
    parts = [loss(logits[i : i + 1], y[i : i + 1], None if target is None else target[i : i + 1]) for i in range(6)]
    assert torch.equal(whole, torch.cat(parts))


def test_the_margin_does_not_saturate_where_cross_entropy_does():
    """Logits x 1000 hide the gradient of cross-entropy in float32, not that of the margin (Carlini and Wagner)."""
    logits = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    y = torch.tensor([0])
    (vanished,) = torch.autograd.grad(losses.cross_entropy(logits, y).sum(), logits)
    (kept,) = torch.autograd.grad(losses.margin(logits, y).sum(), logits)
    assert float(vanished.abs().max()) == 0
    assert kept.tolist() == [[-1.0, 1.0]]
