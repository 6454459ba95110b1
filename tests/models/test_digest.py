"""A network's digest: equal for equal networks, another one for all that changes an answer."""

import copy
import functools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustsuite.models.digest import network_digest, network_parts


class Holder(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.held = held


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.factor = factor

    def forward(self, x):
        return self.layer(x) * self.factor


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.5, 0.25),
        ("relu", "gelu"),
        (None, 0),
        ([1, (2, 3)], [1, (2, 4)]),
        ({"width": 3}, {"width": 4}),
        ({1, 2}, {1, 3}),
        (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(0, 2), torch.zeros(2, 0)),
        (np.arange(3), np.arange(1, 4)),
        (np.float32(1), np.float32(2)),
        (F.relu, F.gelu),
        (lambda x: x + 1, lambda x: x + 2),
        (functools.partial(F.leaky_relu, negative_slope=0.1), functools.partial(F.leaky_relu, negative_slope=0.2)),
        ([nn.Linear(2, 2)], [nn.Linear(2, 2)]),
    ],
)
def test_what_a_module_holds_is_part_of_it(one, other):
    assert network_digest(Holder(one)) == network_digest(Holder(one))
    assert network_digest(Holder(one)) != network_digest(Holder(other))


@pytest.mark.parametrize("persistent", [True, False])
def test_buffers_count_whether_they_are_saved_or_not(persistent):
    networks = [nn.Linear(2, 2) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    for network, value in zip(networks, (0.0, 1.0), strict=True):
        network.register_buffer("centre", torch.full((2,), value), persistent=persistent)
    parts = [network_parts(network) for network in networks]
    assert {name for name in parts[0] if parts[0][name] != parts[1][name]} == {"buffer centre"}


def test_packed_weights_count():
    """State dicts of quantised layers hold no tensors but packed objects."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = (
            torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 4)), {nn.Linear}, dtype=torch.qint8)
            for _ in range(2)
        )
    assert not torch.equal(one(torch.ones(1, 3)), other(torch.ones(1, 3)))
    assert network_digest(one) != network_digest(other)
    assert network_digest(one) == network_digest(copy.deepcopy(one))


@pytest.mark.parametrize("frozen", [True, False])
def test_scripted_networks_count_by_code_constants_and_attributes(frozen):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = [torch.jit.script(Scaled(factor)).eval() for factor in (1.0, 1.0, 2.0)]
        for network in made[1:]:
            network.layer.load_state_dict(made[0].layer.state_dict())
        one, same, other = (network_digest(torch.jit.freeze(n) if frozen else n) for n in made)
    assert one == same != other


@pytest.mark.parametrize(
    "network",
    [
        nn.LSTM(3, 4),
        nn.MultiheadAttention(4, 2),
        nn.TransformerEncoderLayer(4, 2),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        nn.utils.spectral_norm(nn.Linear(2, 2)),
        nn.LazyLinear(3),
        nn.BatchNorm1d(3).to("meta"),
    ],
    ids=lambda network: type(network).__name__,
)
def test_a_copy_has_the_same_digest_in_another_mode_too(network):
    assert network_digest(network) == network_digest(copy.deepcopy(network).eval())


def test_an_attribute_that_leads_back_to_its_network_ends():
    network = Holder(None)
    network.held = {"owner": network, "others": [Holder(network)]}
    assert network_digest(network) == network_digest(network)
