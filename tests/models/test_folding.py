"""A folded copy computes the same function with fewer layers, or nothing is folded."""

import pytest
import torch
from torch import nn

from robustsuite.access.folding import fold
from robustsuite.core.errors import ModelError
from robustsuite.models.build import ModelSpec
from robustsuite.models.wrap import wrap


def stirred(network):
    """In eval mode, with running statistics and affine parameters that do something."""
    generator = torch.Generator().manual_seed(0)
    for part in network.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            for tensor, low, high in (
                (part.running_mean, -0.5, 0.5), (part.running_var, 0.5, 2.0),
                (part.weight.data, 0.5, 1.5), (part.bias.data, -0.5, 0.5),
            ):  # fmt: skip
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return network.eval()


def norms(network):
    return sum(isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)) for part in network.modules())


class Chain(nn.Module):
    """A convolution and a BatchNorm, joined by code that a test gives."""

    def __init__(self, join):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 4)
        self.join = join

    def forward(self, x):
        return self.head(self.join(self, x).mean((2, 3)))


def agree(network, x):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold(network)
    with torch.no_grad():
        torch.testing.assert_close(folded.network(x), network(x), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(p.requires_grad for p in folded.network.parameters())
    return folded


def test_a_resnet_loses_all_its_batchnorms():
    torch.manual_seed(0)
    network = stirred(ModelSpec("resnet18", options=(("width", 4),))(10, (3, 32, 32), (0.0, 1.0)))
    folded = agree(network, torch.rand(4, 3, 32, 32))
    assert folded.folds == norms(network) == 20
    assert norms(folded.network) == 0
    assert folded.smooth
    assert all(p.requires_grad for p in network.parameters())


def test_what_cannot_be_traced_is_folded_part_by_part():
    """A wrapped network looks at its first answer, which no tracer can follow."""
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    network = wrap(stirred(inner), mean=(0.5, 0.4, 0.3), std=0.25)
    folded = agree(network, torch.rand(4, 3, 8, 8))
    assert folded.folds == 1
    assert not folded.smooth
    assert not network._checked or folded.network._checked


def test_dense_layers_fold_too():
    network = stirred(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)))
    assert agree(network, torch.rand(4, 6)).folds == 1


@pytest.mark.parametrize(
    "join",
    [
        lambda m, x: (lambda y: m.norm(y) + y)(m.conv(x)),  # a second user of the convolution's output
        lambda m, x: m.norm(m.conv(x)) + m.norm(m.other(x)),  # a shared BatchNorm
        lambda m, x: m.norm(m.conv(m.conv(x))),  # a shared convolution
        lambda m, x: m.norm(torch.relu(m.conv(x))),  # something between the two
        lambda m, x: m.norm(x),  # no convolution at all
    ],
)
def test_what_is_not_one_on_the_other_stays(join):
    network = stirred(Chain(join))
    folded = agree(network, torch.rand(4, 3, 5, 5))
    assert folded.folds == 0
    assert norms(folded.network) == 1


def plain(m, x):
    return m.norm(m.conv(x))


def test_hooked_and_special_layers_stay():
    class Quantised(nn.Conv2d):
        def forward(self, x):
            return (super().forward(x) * 4).round() / 4

    x = torch.rand(4, 3, 5, 5)
    hooked = stirred(Chain(plain))
    hooked.conv.register_forward_hook(lambda module, inputs, output: output * 2)
    special = stirred(Chain(plain))
    special.conv = Quantised(3, 3, 1)
    weighed = stirred(Chain(plain))
    nn.utils.parametrizations.weight_norm(weighed.conv)
    trained = stirred(Chain(plain))
    trained.norm.train()
    no_statistics = Chain(plain).eval()
    no_statistics.norm = nn.BatchNorm2d(3, track_running_stats=False).eval()
    for network in (hooked, special, weighed, no_statistics):
        assert agree(network, x).folds == 0
    assert fold(trained).folds == 0
    assert agree(stirred(Chain(plain)), x).folds == 1


def test_smooth_is_said_only_of_what_is_known_to_be():
    for join, smooth in (
        (plain, True),
        (lambda m, x: (m.norm(m.conv(x)) * 8).round() / 8, False),
        (lambda m, x: m.norm(m.conv(x)).sort(1).values, False),
        (lambda m, x: m.norm(m.conv(x)) + x, True),
    ):
        assert fold(stirred(Chain(join))).smooth == smooth


def test_copies_that_share_weights_are_refused():
    class Shared(Chain):
        def __deepcopy__(self, memo):
            return self

    with pytest.raises(ModelError, match="weights of their own"):
        fold(stirred(Shared(plain)))
