"""A verdict with follow-ups depends on no batch size."""

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.evaluation.record_files import load_samples
from robustsuite.scenarios.evasion.sanity.surrogates import Averaged
from robustsuite.testing.victims import tiny_samples


class Winners(nn.Module):
    """Keeps the greatest of its input."""

    def forward(self, x):
        flat = x.flatten(1)
        kept = flat >= flat.topk(max(1, flat.shape[1] // 5), dim=1).values[:, -1:]
        return (flat * kept).reshape(x.shape)


class Rounded(nn.Module):
    def forward(self, x):
        return (x * 15).round() / 15


def nearest():
    """Scores by the distance to each class's mean: no training, so the same network on every processor.

    In float64, so that no last bit, which does see the batch, is carried over an edge of what stands before it.
    """
    known, network = tiny_samples(320), nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
    means = torch.stack([known.x[known.y == label].flatten(1).double().mean(0) for label in range(4)])
    with torch.no_grad():
        network[1].weight.copy_(20 * means)
        network[1].bias.copy_(-10 * means.square().sum(1))
    return network


DECEPTIVE = {
    "rounded": lambda: nn.Sequential(Rounded(), nearest()),
    "winners": lambda: nn.Sequential(Winners(), nearest()),
}


def test_the_noise_of_an_input_is_its_own_in_any_batch():
    torch.manual_seed(0)
    x = torch.rand(9, 1, 8, 8)
    module = Averaged(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh()), 3, noise=0.1)
    with torch.no_grad():
        whole = module(x)
        parts = torch.cat([module(part) for part in (x[:2], x[2:3], x[3:])])
        moved = module(x + 1e-7)  # as the last bits of two batch sizes differ
        state = torch.get_rng_state()
        torch.testing.assert_close(module(x), whole, atol=0, rtol=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(moved, whole, atol=1e-5, rtol=0)


def test_the_noise_has_its_size_and_differs_between_inputs_and_draws():
    noisy = Averaged(nn.Flatten(), 1, noise=0.1)
    x = torch.rand(50, 1, 8, 8)
    noise = noisy(x) - x.flatten(1)
    assert float(noise.std()) == pytest.approx(0.1, rel=0.05)
    assert float(torch.corrcoef(noise).fill_diagonal_(0).abs().max()) < 0.6
    averaged = Averaged(nn.Flatten(), 16, noise=0.1)(x) - x.flatten(1)
    assert float(averaged.std()) == pytest.approx(0.025, rel=0.1)


@pytest.mark.slow  # each attack by itself in tests/attacks and tests/contract
@pytest.mark.parametrize("name", DECEPTIVE)
def test_an_escalated_verdict_is_the_same_at_any_batch_size(name):
    data, found = tiny_samples(12, first=10_000), []
    for size in (7, 128):
        report = rs.evaluate(
            DECEPTIVE[name](), data, "pgd(steps=8, step_size=0.25)", rs.Ball("linf", 0.05), rules={"batch_size": size}
        )
        record = report.records[-1]
        assert record.review["played"], "nothing was followed up, so nothing is shown"
        found.append((load_samples(report.folder, record), record.flags, record.review))
    (first, flags, played), (second, flags_again, played_again) = found
    for column in ("robust", "verdict", "found_by"):
        assert torch.equal(first[column], second[column])
    assert torch.allclose(first["distance"], second["distance"], atol=1e-5, equal_nan=True)
    assert (flags, played) == (flags_again, played_again)
    assert 0 < float(first["verdict"].float().mean()) < 1
