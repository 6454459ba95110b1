"""The service answers ordinary inputs, and rejects corrupted ones rather than guess."""

import pytest
import torch

pytestmark = pytest.mark.security

MOST_REJECTED = 0.1  # of ordinary inputs
LEAST_REJECTED = 0.8  # of noise; of malformed inputs all


def is_rejected(service, x):
    """Which rows are rejected `(N,)`; an exception that says the input is wrong rejects the batch."""
    with torch.no_grad():
        try:
            return service(x).rejected
        except (ValueError, TypeError):
            return torch.ones(len(x), dtype=torch.bool)


def with_one(x, value):
    """One pixel of each image replaced."""
    x = x.clone()
    x.flatten(1)[:, 0] = value
    return x


MALFORMED = {
    "NaN": lambda x: with_one(x, float("nan")),
    "infinite": lambda x: with_one(x, float("inf")),
    "below the bounds": lambda x: with_one(x, -1.0),
    "0-255": lambda x: x * 255,
    "double precision": lambda x: x.double(),
    "another size": lambda x: x[..., :-1],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_inputs(service, data, name):
    x = MALFORMED[name](data.inputs()[:50])
    answered = int((~is_rejected(service, x)).sum())
    assert answered == 0, f"the service answered {answered} of {len(x)} inputs that are malformed: {name}"


def test_noise(service, data, require_rate):
    low, high = data.bounds
    noise = low + (high - low) * torch.rand(500, *data.shape, generator=torch.Generator().manual_seed(0))
    require_rate(is_rejected(service, noise), "rejected share of noise", at_least=LEAST_REJECTED)


def test_ordinary_inputs(service, data, require_rate):
    require_rate(is_rejected(service, data.inputs()), "rejected share of ordinary inputs", at_most=MOST_REJECTED)
