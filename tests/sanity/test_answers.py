"""Is the answer a function of the input, and continuous where it matters? Deceptions are seen, honesty is not."""

import copy

import pytest
import torch
from torch import nn

import robustsuite as rs
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Served
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.core.suspicions import Suspicion
from robustsuite.defenses import decoys
from robustsuite.scenarios import Evasion
from robustsuite.scenarios.evasion.sanity.boundary import crossed
from robustsuite.scenarios.evasion.sanity.clean_points import treated_apart
from robustsuite.scenarios.evasion.sanity.history import copies_of, remembered
from robustsuite.scenarios.evasion.sanity.modes import by_mode
from robustsuite.scenarios.evasion.sanity.probe import Look
from robustsuite.scenarios.evasion.sanity.soundness import is_sound
from robustsuite.scenarios.victim import Victim
from robustsuite.testing.victims import tiny_network, tiny_samples

GAME = Evasion(ball=Ball("linf", 0.06))
RAW = tiny_samples(60, first=10_000)
# Inputs of 16 levels, a quarter of which are zero, as clean images have them.
DATA = Samples(((RAW.x * 16).round() / 16).masked_fill(RAW.x < 0.45, 0.0), RAW.y, 4, (0.0, 1.0), RAW.ids)
MEANS = decoys.ClassMeans(DATA.x, DATA.y, 4)


class Rounded(nn.Module):
    """Rounds its input to so many steps; the gradient passes straight through."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def forward(self, x):
        return x + ((x * self.steps).round() / self.steps - x).detach()


def look_at(network):
    victim = Victim(Served(network.eval()), DATA)
    look = Look.at(victim, GAME, victim.correct, 16)
    return victim, look


def seen(network):
    victim, look = look_at(network)
    fresh = copies_of(victim.pristine)
    if look.random:
        return {Suspicion.DEPENDS_ON_HISTORY} if fresh and remembered(look, fresh, None, Streams(1)) else set()
    crossing = crossed(look, fresh)
    found = {code for code, _ in (*treated_apart(look, Streams(0)), *by_mode(look, fresh))}
    if float((crossing.jumps() > 0.05).float().mean()) > 0.25:
        found.add(Suspicion.JUMP_AT_BOUNDARY)
    if remembered(look, fresh, crossing, Streams(1)):
        found.add(Suspicion.DEPENDS_ON_HISTORY)
    return found


class Noisy(nn.Module):
    """Random by torch's generator, or by one of its own."""

    def __init__(self, own):
        super().__init__()
        self.network, self.generator = MEANS, torch.Generator().manual_seed(5) if own else None

    def forward(self, x):
        logits = self.network(x)
        return logits + 0.1 * torch.randn(logits.shape, generator=self.generator)


class Purifying(nn.Module):
    """Takes a gradient step before it answers, so that it raises in inference mode."""

    def forward(self, x):
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(MEANS(leaf).logsumexp(1).sum(), leaf)
        return MEANS(x + 0.01 * slope)


HONEST = {
    "purifying": Purifying,
    "noisy": lambda: Noisy(own=False),
    "noisy by itself": lambda: Noisy(own=True),
    "plain": lambda: tiny_network(),
    "nearest means": lambda: MEANS,
    "rounded to 255": lambda: nn.Sequential(Rounded(255), tiny_network()),
    "bfloat16": lambda: copy.deepcopy(MEANS).to(torch.bfloat16),
    "float64": lambda: copy.deepcopy(tiny_network()).double(),
}
DECEPTIVE = {
    "votes": (lambda: decoys.Decoyed(MEANS, decoys.votes, 64, 4), Suspicion.JUMP_AT_BOUNDARY),
    "steps": (lambda: decoys.Decoyed(MEANS, lambda z: (4 * z).round() / 4, 64, 4), Suspicion.JUMP_AT_BOUNDARY),
    "code words": (lambda: decoys.Decoyed(MEANS, decoys.code_words, 64, 4), Suspicion.JUMP_AT_BOUNDARY),
    "values": (lambda: gated(lambda x: decoys.clean_values(x, 16)), Suspicion.JUMP_AT_CLEAN),
    "8 bits": (lambda: gated(lambda x: decoys.clean_values(x, 255)), Suspicion.JUMP_AT_CLEAN),
    "zeros": (lambda: gated(decoys.clean_zeros), Suspicion.JUMP_AT_CLEAN),
    "off the bounds": (lambda: gated(off_the_bounds), Suspicion.JUMP_AT_CLEAN),
    "single": (lambda: gated(decoys.single), Suspicion.DEPENDS_ON_BATCH),
    "gradients": (lambda: gated(decoys.without_gradients), Suspicion.DEPENDS_ON_AUTOGRAD),
    "inference mode": (lambda: gated(everywhere(torch.is_inference_mode_enabled)), Suspicion.DEPENDS_ON_MODE),
    "half": (lambda: gated(lambda x: torch.full((len(x),), x.dtype == torch.half)), Suspicion.DEPENDS_ON_MODE),
    "warm-up": (lambda: decoys.WarmingUp(MEANS, tiny_network(), 100), Suspicion.DEPENDS_ON_HISTORY),
    "memory": (lambda: decoys.NearDuplicates(MEANS, 0.1), Suspicion.DEPENDS_ON_HISTORY),
}


def off_the_bounds(x, depth=0.02):
    return ((x >= depth) & (x <= 1 - depth)).flatten(1).all(1)


def everywhere(asked):
    return lambda x: torch.full((len(x),), asked())


def gated(gate):
    return decoys.Gated(nn.Sequential(MEANS, Scale(3.0)), MEANS, gate)


class Scale(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return self.by * x


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_model_raises_nothing(name):
    assert seen(HONEST[name]()) == set()


@pytest.mark.parametrize("name", DECEPTIVE)
def test_a_deception_raises_its_flag(name):
    make, flag = DECEPTIVE[name]
    assert flag in seen(make())


def test_a_crossing_lies_where_a_linear_model_changes_its_mind():
    torch.manual_seed(0)
    x, w = torch.rand(20, 6), torch.randn(6)
    y = (x @ w > w.sum() / 2).long()

    class Linear(nn.Module):
        def forward(self, x):
            return torch.stack([-(x @ w - w.sum() / 2), x @ w - w.sum() / 2], 1)

    victim = Victim(Served(Linear()), Samples(x, y, 2))
    look = Look.at(victim, GAME, victim.correct)
    crossing = crossed(look)
    assert float((crossing.inside @ w - w.sum() / 2).abs().max()) < 2**-14 * float((x @ w).abs().max()) * 2
    assert float((crossing.beyond - crossing.inside).abs().max()) <= 2**-14
    assert float(crossing.jumps().abs().max()) < 0.01
    torch.testing.assert_close(
        crossing.explained(Linear()), torch.ones(len(look), dtype=torch.float64), atol=1e-3, rtol=0
    )


def test_the_gradient_of_a_decoy_explains_nothing_of_the_way_and_that_of_the_network_all_of_it():
    network = decoys.Decoyed(MEANS, decoys.votes, 64, 4)
    _, look = look_at(network)
    crossing = crossed(look)
    assert float(crossing.explained(network).abs().max()) < 0.2
    assert not is_sound(look, network, frozenset({Suspicion.JUMP_AT_BOUNDARY}))
    torch.testing.assert_close(crossing.explained(MEANS), torch.ones(len(look), dtype=torch.float64), atol=0.1, rtol=0)
    assert is_sound(look, MEANS, frozenset({Suspicion.JUMP_AT_BOUNDARY}))


def test_a_vote_jumps_by_twice_its_height():
    network = nn.Sequential(MEANS, Vote())
    _, look = look_at(network)
    torch.testing.assert_close(crossed(look).jumps(), torch.full((len(look),), 2.0, dtype=torch.float64))


class Vote(nn.Module):
    def forward(self, x):
        return decoys.votes(x)


@pytest.mark.parametrize(
    ("gate", "radius", "within", "n"),
    [
        pytest.param(decoys.single, 0.06, "one input at a time", 8, id="single"),
        pytest.param(
            lambda x: decoys.clean_values(x, 16), 0.13, "keeping the values", 16, id="values", marks=pytest.mark.slow
        ),
        pytest.param(lambda x: decoys.clean_values(x, 255), 0.13, "keeping 8-bit values", 8, id="8 bits"),
        pytest.param(off_the_bounds, 0.13, "keeping off the bounds", 8, id="off the bounds"),
    ],
)
def test_what_passes_a_gate_is_attacked_within_it(gate, radius, within, n):
    few, attack, rules = DATA.take(slice(0, n)), "pgd(steps=10, step_size=0.25)", {"query_budget": 20}
    network = decoys.Gated(tiny_network(), MEANS, gate)
    record = rs.evaluate(network.eval(), few, attack, ("linf", radius), rules=rules).records[-1]
    own, verdict = (record.metrics[name].value for name in ("robust_accuracy", "robust_accuracy_followed_up"))
    plain = rs.evaluate(tiny_network(), few, attack, ("linf", radius)).records[-1].metrics["robust_accuracy"].value
    assert own >= plain + 0.2
    assert verdict <= plain + 0.15
    assert any(step["broke"] for step in record.review["played"] if step.get("within") == within)


def test_a_model_that_goes_by_its_batch_is_not_random():
    for n in (18, 60, 300):  # one, several, or all of the batches are others the second time
        data = tiny_samples(n, first=10_000)
        assert Victim(Served(ByItsBatch().eval()), data).clean.deterministic
        assert Victim(Served(gated(decoys.single).eval()), data).clean.deterministic
        assert not Victim(Served(Noisy(own=False)), data).clean.deterministic


class ByItsBatch(nn.Module):
    def forward(self, x):
        return MEANS(x - x.mean(0))


def test_a_copy_that_was_asked_nothing_shares_its_weights_and_nothing_else():
    network = decoys.NearDuplicates(copy.deepcopy(tiny_network()), 0.1).eval()
    victim = Victim(Served(network), DATA)
    victim.model(DATA.inputs())
    fresh = copies_of(victim.pristine)
    first, second = fresh().network, fresh().network
    assert first._known is None
    first(DATA.inputs())
    assert second._known is None
    weights = zip(network.parameters(), first.parameters(), strict=True)
    assert all(mine is own for mine, own in weights)
    assert not any(mine is own for mine, own in zip(network.buffers(), first.buffers(), strict=True))
