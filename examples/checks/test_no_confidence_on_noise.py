"""The model is not sure of what it cannot know, and as sure as it is right of the rest."""

import pytest
import torch

import robustsuite as rs

pytestmark = pytest.mark.security

SURE = 0.9
MOST_SURE = 0.05  # share of noise that may be answered with such confidence
CALIBRATION = 0.1  # greatest expected calibration error on the test samples


def test_noise(service, data, require_rate):
    """A rejection is an answer too: it claims nothing."""
    low, high = data.bounds
    noise = low + (high - low) * torch.rand(500, *data.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, rejected = service(noise)
    sure = (logits.softmax(1).amax(1) >= SURE) & ~rejected
    require_rate(sure, f"share of noise answered with confidence {SURE} or more", at_most=MOST_SURE)


def test_calibration(model, data):
    error = rs.evaluate(model, data, "none").records[0].metrics["expected_calibration_error"].value
    assert error <= CALIBRATION, f"expected calibration error {error:.3f}, asked for at most {CALIBRATION}"
