"""Parts of a model that are networks themselves: which they are, and the gradient through them."""

import torch
import torch.nn.functional as F
from torch import nn

from robustsuite.scenarios.evasion.sanity.surrogates import Submodule, parts_within


class Wrapped(nn.Module):
    """A linear network on images, in two shells, behind foreign code that rounds and pads."""

    def __init__(self, pad=0):
        super().__init__()
        self.pad = pad
        linear = nn.Linear((4 + 2 * pad) ** 2, 3)
        self.shell = nn.Sequential(nn.Sequential(nn.Flatten(), linear))

    def forward(self, x):
        rounded = torch.from_numpy((x.detach().numpy() * 15).round() / 15)
        return F.one_hot(self.shell(F.pad(rounded, (self.pad,) * 4)).argmax(1), 3).float()


def test_the_innermost_one_is_found():
    model = Wrapped()
    assert parts_within(model, torch.rand(5, 1, 4, 4), 3) == (model.shell[0],)
    assert parts_within(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(5, 1, 4, 4), 3) == ()
    assert all(not part._forward_hooks for part in model.modules())


def test_the_gradient_is_that_of_the_part_where_it_stands():
    model, x = Wrapped(), torch.rand(5, 1, 4, 4, requires_grad=True)
    inside = Submodule(model, parts_within(model, x, 3), 3)
    logits = inside(x)
    (slope,) = torch.autograd.grad(logits[:, 1].sum(), x)
    linear = model.shell[0][1]
    rounded = (x.detach() * 15).round() / 15
    assert torch.allclose(logits, linear(rounded.flatten(1)))
    assert torch.allclose(slope, linear.weight[1].reshape(1, 1, 4, 4).expand(5, -1, -1, -1))


def test_images_of_another_size_hand_it_on_too():
    model, x = Wrapped(pad=2), torch.rand(5, 1, 4, 4, requires_grad=True)
    inside = Submodule(model, parts_within(model, x, 3), 3)
    (slope,) = torch.autograd.grad(inside(x)[:, 1].sum(), x)
    assert torch.allclose(slope.sum((1, 2, 3)), model.shell[0][1].weight[1].sum().expand(5), atol=1e-5)


def test_members_are_averaged():
    members = nn.ModuleList(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) for _ in range(2))

    class Votes(nn.Module):
        def __init__(self):
            super().__init__()
            self.members = members

        def forward(self, x):
            return sum(F.one_hot(member(x).argmax(1), 3).float() for member in self.members)

    model, x = Votes(), torch.rand(5, 1, 4, 4)
    assert parts_within(model, x, 3) == tuple(members)
    wanted = sum(member(x).log_softmax(1) for member in members) / 2
    assert torch.allclose(Submodule(model, tuple(members), 3)(x), wanted, atol=1e-6)
