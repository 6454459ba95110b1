"""DP-SGD: what one person contributes, what is sampled, what is accounted for."""

import dataclasses
import io

import pytest
import torch
from lightning_fabric import Fabric
from private_recipes import recipe
from torch import nn

from robustsuite.core.ball import Ball
from robustsuite.core.canonical import canonical_json
from robustsuite.core.errors import RequestError, RobustsuiteError
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.defenses.adversarial_training import AdversarialTraining
from robustsuite.defenses.dp_sgd import DPSGD
from robustsuite.defenses.private_descent import GRADIENT_MODES, admitted
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_recipe
from robustsuite.training.fit import fit, make_network
from robustsuite.training.parts import CleanLoss, Step, training_loss
from robustsuite.training.settings import Training


def start(defended, samples, *, network=None, seed=0):
    """A running private descent and its plain network."""
    network = make_network(defended, samples, seed) if network is None else defended.update.admit(network)
    fabric = Fabric(accelerator="cpu", devices=1)
    return defended.update.start(network, samples, defended.training, Streams(seed), fabric), network


def flat(network):
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


def step_of(samples, epoch=0):
    return Step(training_loss(Training(), samples), Streams(5), samples.bounds, epoch, samples.classes)


def advance(updater, samples, epoch=0, objective=None):
    for index in updater.batches(epoch):
        losses = torch.zeros(0)
        if len(index):
            losses = (objective or CleanLoss())(updater.network, samples.batch(index), step_of(samples))
        updater.step(losses)


# --- what one person contributes ---


@pytest.mark.parametrize("mode", GRADIENT_MODES)
def test_a_planted_giant_contributes_at_most_the_clip(mode):
    """Everybody is in the batch, only one has a loss, and it is huge: the update is that person's contribution."""
    samples = tiny_samples(24)
    rules = DPSGD(noise_multiplier=0.0, max_grad_norm=0.7, delta=1e-3, grad_sample_mode=mode)
    updater, network = start(recipe(rules, batch_size=24), samples)
    before = flat(network)
    (index,) = [*updater.batches(0)]
    weight = torch.zeros(24)
    weight[5] = 1e6
    updater.step(weight * CleanLoss()(updater.network, samples.batch(index), step_of(samples)))
    moved = float((before - flat(network)).double().norm()) * 24  # the step divides by the configured batch size
    assert moved <= 0.7 * (1 + 1e-5)
    assert moved == pytest.approx(0.7, rel=1e-3)


def test_without_clipping_and_noise_it_is_plain_gradient_descent():
    samples = tiny_samples(24)
    rules = DPSGD(noise_multiplier=0.0, max_grad_norm=1e6, delta=1e-3)
    updater, network = start(recipe(rules, batch_size=24), samples)
    before = flat(network)
    twin = make_network(recipe(rules), samples, 0)
    torch.manual_seed(0)
    loss = training_loss(Training(), samples)(twin.train()(samples.x), samples.y).mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(twin.parameters()))])
    torch.manual_seed(0)  # the same dropout
    advance(updater, samples)
    assert torch.allclose(before - flat(network), expected, atol=1e-6)


def test_modes_and_physical_batches_agree():
    samples = tiny_samples(60)
    results = []
    for mode, most in [("hooks", None), ("functorch", None), ("ghost", None), ("hooks", 5), ("ghost", 7)]:
        rules = DPSGD(noise_multiplier=1.0, delta=1e-3, grad_sample_mode=mode, max_physical_batch=most)
        updater, network = start(recipe(rules, batch_size=20), samples)
        network.features[4].p = 0.0  # dropout would draw by physical batch
        advance(updater, samples)
        results.append(flat(network))
        assert updater.facts()["steps"] == 3
    for other in results[1:]:
        assert torch.allclose(results[0], other, atol=1e-5)


@pytest.mark.parametrize("mode", GRADIENT_MODES)
def test_contributions_are_each_examples_clipped_gradient_also_for_channels_last(mode):
    """Against a loop over examples. Opacus alone unfolds channels-last inputs of a convolution wrongly."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Conv2d(6, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4)
    )
    x = torch.rand(12, 3, 8, 8).to(memory_format=torch.channels_last)
    samples = Samples(x, torch.arange(12) % 4, 4)
    loss = training_loss(Training(), samples)
    total = torch.zeros_like(flat(network))
    for i in range(12):
        value = loss(network(x[i : i + 1].contiguous()), samples.y[i : i + 1]).sum()
        one = torch.cat([g.flatten() for g in torch.autograd.grad(value, list(network.parameters()))])
        total += one * min(1.0, 0.5 / float(one.norm()))
    rules = DPSGD(noise_multiplier=0.0, max_grad_norm=0.5, delta=1e-3, grad_sample_mode=mode)
    updater, network = start(recipe(rules, batch_size=12), samples, network=network)
    before = flat(network)
    for index in updater.batches(0):
        batch = samples.batch(index)
        batch = batch._replace(x=batch.x.to(memory_format=torch.channels_last))
        updater.step(CleanLoss()(updater.network, batch, step_of(samples)))
    assert torch.allclose((before - flat(network)) * 12, total, atol=1e-5)


def test_noise_has_the_stated_deviation():
    samples = tiny_samples(40)
    updater, network = start(recipe(DPSGD(noise_multiplier=3.0, max_grad_norm=0.5, delta=1e-3)), samples)
    before = flat(network)
    updater.step(torch.zeros(0))  # an empty batch: noise alone
    assert float((before - flat(network)).std()) * 32 == pytest.approx(1.5, rel=0.1)


@dataclasses.dataclass(frozen=True)
class TwoPasses(CleanLoss):
    """Clean and shifted view of each person, each in a pass of its own."""

    weights: tuple = ()

    def __call__(self, network, batch, step):
        losses = (step.loss(network(batch.x), batch.y) + step.loss(network(batch.x + 0.01), batch.y)) / 2
        return losses * torch.tensor(self.weights) if self.weights else losses


@dataclasses.dataclass(frozen=True)
class TwoViews(CleanLoss):
    """Both views in one pass."""

    def __call__(self, network, batch, step):
        both = step.loss(network(torch.cat([batch.x, batch.x + 0.01])), torch.cat([batch.y, batch.y]))
        return both.reshape(2, -1).mean(0)


@dataclasses.dataclass(frozen=True)
class EachTwice(CleanLoss):
    """Both views, as if they were two people."""

    def __call__(self, network, batch, step):
        return step.loss(network(torch.cat([batch.x, batch.x + 0.01])), torch.cat([batch.y, batch.y]))


def test_two_views_in_two_passes_contribute_once():
    samples = tiny_samples(24)
    rules = DPSGD(noise_multiplier=0.0, max_grad_norm=0.7, delta=1e-3)
    updater, network = start(recipe(rules, batch_size=24), samples)
    before = flat(network)
    advance(updater, samples, objective=TwoPasses(weights=(1e6, *[0.0] * 23)))
    assert float((before - flat(network)).double().norm()) * 24 <= 0.7 * (1 + 1e-5)


@pytest.mark.parametrize("mode", ["hooks", "functorch"])
@pytest.mark.parametrize("objective", [TwoViews(), EachTwice()], ids=["averaged", "doubled"])
def test_two_views_as_two_people_are_refused(objective, mode):
    """Opacus alone lets them through with a contribution of up to 2 C."""
    rules = DPSGD(noise_multiplier=1.0, delta=1e-3, grad_sample_mode=mode)
    defended = dataclasses.replace(recipe(rules), objective=objective)
    with pytest.raises(RobustsuiteError, match="one loss and one gradient for each example"):
        fit(defended, tiny_samples(60), 0)


def test_noise_without_end_gives_chance_and_little_noise_does_not():
    train, test = tiny_samples(320), tiny_samples(200, first=10_000)

    def accuracy(sigma, seed):
        fitted = fit(recipe(DPSGD(noise_multiplier=sigma, delta=1e-3)), train, seed)
        with torch.no_grad():
            return float((fitted.network(test.x).argmax(1) == test.y).float().mean())

    loud = [accuracy(1000.0, seed) for seed in range(6)]
    assert sum(loud) / len(loud) < 0.5
    assert accuracy(0.5, 0) > 0.85


# --- sampling and accounting ---


def test_rate_is_exactly_batch_over_n():
    """Opacus takes 1 / len(loader), here 1/4 instead of 32/101."""
    samples = tiny_samples(101)
    updater, _ = start(recipe(DPSGD(noise_multiplier=1.0, delta=1e-3)), samples)
    sizes = [len(index) for epoch in range(200) for index in updater.batches(epoch)]
    mean = sum(sizes) / len(sizes)
    assert updater.sample_rate == 32 / 101
    assert mean == pytest.approx(32, abs=4 * (32 * (1 - 32 / 101) / len(sizes)) ** 0.5)
    assert len(set(sizes)) > 5
    advance(updater, samples)
    facts = updater.facts()
    assert (facts["sample_rate"], facts["expected_batch_size"], facts["steps"]) == (32 / 101, 32, 3)


def test_planted_wrong_rate_is_caught():
    samples = tiny_samples(101)
    updater, _ = start(recipe(DPSGD(noise_multiplier=1.0, delta=1e-3)), samples)
    wrong = updater._accountant.get_optimizer_hook_fn(sample_rate=1 / 4)
    updater._optimizer.attach_step_hook(wrong)
    advance(updater, samples)
    with pytest.raises(RobustsuiteError, match="its epsilon would not be valid"):
        updater.facts()


def test_unaccounted_step_is_caught():
    samples = tiny_samples(101)
    updater, _ = start(recipe(DPSGD(noise_multiplier=1.0, delta=1e-3)), samples)
    updater._optimizer.attach_step_hook(lambda optimizer: None)
    advance(updater, samples)
    with pytest.raises(RobustsuiteError, match=r"steps\)=\[\(1.0, 0.31\d+, 3\)\], got \[\]"):
        updater.facts()


def test_empty_batches_are_steps_of_noise():
    samples = tiny_samples(6)
    updater, network = start(recipe(DPSGD(noise_multiplier=1.0, delta=1e-3), batch_size=1), samples)
    empty = done = 0
    for epoch in range(9):
        for index in updater.batches(epoch):
            if done == 50:
                break
            before = flat(network)
            losses = torch.zeros(0)
            if len(index):
                losses = CleanLoss()(updater.network, samples.batch(index), step_of(samples))
            updater.step(losses)
            done, empty = done + 1, empty + (len(index) == 0)
            assert (flat(network) != before).float().mean() > 0.99
    assert flat(network).isfinite().all()
    assert empty > 5
    assert updater.facts()["steps"] == 50


def test_ghost_takes_empty_batches_too():
    samples = tiny_samples(6)
    rules = DPSGD(noise_multiplier=1.0, delta=1e-3, grad_sample_mode="ghost")
    fitted = fit(recipe(rules, batch_size=1, epochs=4), samples, 0)
    assert fitted.facts["steps"] == 24
    assert flat(fitted.network).isfinite().all()


def test_facts_of_a_training():
    fitted = fit(recipe(DPSGD(epsilon=2.0, delta=1e-3)), tiny_samples(200), 0)
    facts = fitted.facts
    assert 1.9 < facts["epsilon"] <= 2.0
    assert (facts["private_samples"], facts["steps"], facts["sample_rate"]) == (200, 12, 0.16)
    assert (facts["privacy_unit"], facts["neighbouring"], facts["sampling"]) == ("example", "add/remove", "poisson")
    assert "improved" in facts["conversion"]
    assert facts["epsilon_valid"] is True
    assert [told.split(",")[0] for told in facts["outside_guarantee"]] == ["the training loss of each epoch"]
    assert fitted.flags == ()
    canonical_json(facts)


def test_repeats_with_the_seed_and_differs_without():
    one, same, other = (
        flat(fit(recipe(DPSGD(noise_multiplier=1.0, delta=1e-3)), tiny_samples(64), seed).network) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_resumed_equals_straight_with_its_accounting():
    samples = tiny_samples(64)
    defended = recipe(DPSGD(noise_multiplier=1.0, delta=1e-3), schedule="cosine", momentum=0.9)
    straight, network = start(defended, samples)
    network.features[4].p = 0.0
    advance(straight, samples, 0)
    buffer = io.BytesIO()
    torch.save({"weights": network.state_dict(), "updater": straight.state()}, buffer)
    advance(straight, samples, 1)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    resumed, again = start(defended, samples, seed=0)
    again.features[4].p = 0.0
    again.load_state_dict(saved["weights"])
    resumed.restore(saved["updater"])
    advance(resumed, samples, 1)
    assert torch.equal(flat(network), flat(again))
    assert straight.facts() == resumed.facts()
    assert resumed.facts()["steps"] == 4


# --- the network ---


class Mixing(nn.Module):
    """All that Opacus stumbles over: batch norm on maps and vectors, one without weights, in-place activations."""

    def __init__(self):
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.bare = nn.BatchNorm2d(8, affine=False)
        self.vectors = nn.Sequential(nn.Linear(288, 32), nn.BatchNorm1d(32), nn.ELU(inplace=True), nn.Linear(32, 4))

    def forward(self, x):
        return self.vectors(self.bare(self.maps(x)).flatten(1))


def test_network_is_mended_before_the_optimizer_and_every_weight_moves():
    samples = tiny_samples(64)
    updater, network = start(recipe(DPSGD(noise_multiplier=1.0, delta=1e-3)), samples, network=Mixing())
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    assert not any(getattr(m, "inplace", False) for m in network.modules())
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    advance(updater, samples)
    assert all(not torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_no_example_sees_another():
    network = admitted(Mixing())
    x = tiny_samples(8).x
    assert torch.allclose(network(x)[:3], network(x[:3]), atol=1e-6)


def test_what_is_saved_loads_into_a_plain_network():
    samples = tiny_samples(64)
    defended = recipe(DPSGD(noise_multiplier=1.0, delta=1e-3))
    fitted = fit(defended, samples, 0)
    plain = make_network(defended, samples, 1)
    assert list(fitted.network.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(fitted.network.state_dict())
    assert torch.equal(plain.eval()(samples.x), fitted.network(samples.x))
    leftovers = [name for p in fitted.network.parameters() for name in vars(p)]
    assert leftovers == []
    assert not any(m._backward_hooks or m._forward_hooks for m in fitted.network.modules())


def test_groups_of_one_value_are_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GroupNorm(16, 16), nn.Linear(16, 4))
    with pytest.raises(RequestError, match="more than one value per group, got 2=GroupNorm"):
        start(recipe(DPSGD(noise_multiplier=1.0, delta=1e-3)), tiny_samples(40), network=network)


class Adding(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, 8), nn.Linear(8, 4)

    def forward(self, x):
        h = self.first(x.flatten(1))
        h += 1.0
        return self.head(h)


def test_in_place_operations_are_refused_before_training():
    with pytest.raises(RequestError, match="without in-place operations, got Adding"):
        start(recipe(DPSGD(noise_multiplier=1.0, delta=1e-3)), tiny_samples(40), network=Adding())


# --- attacks in the middle of training ---


def test_attack_between_two_steps_changes_nothing():
    """Opacus raises on an input gradient of a hooked model; here the next step is bit for bit the same."""
    samples = tiny_samples(64)
    attacked = AdversarialTraining(norm="linf", radius=0.1)(tiny_recipe()).objective

    def run(attack):
        updater, network = start(recipe(DPSGD(noise_multiplier=1.0, delta=1e-3)), samples)
        network.features[4].p = 0.0
        advance(updater, samples, 0)
        if attack:
            for victim in (updater.network, network):
                figures = attacked.validate(victim, samples, step_of(samples))
                assert 0 <= figures["robust_accuracy"] <= 1
            updater.network.train()
        advance(updater, samples, 1)
        return flat(network), updater.facts()

    quiet, hunted = run(False), run(True)
    assert torch.equal(quiet[0], hunted[0])
    assert quiet[1] == hunted[1]


@pytest.mark.parametrize("mode", GRADIENT_MODES)
def test_adversarial_training_under_privacy_keeps_one_gradient_each(mode):
    rules = DPSGD(noise_multiplier=1.0, delta=1e-3, grad_sample_mode=mode)
    defended = AdversarialTraining(attack={"pgd": {"steps": 2}})(
        dataclasses.replace(recipe(rules), threat=Ball("linf", 0.05))
    )
    fitted = fit(defended, tiny_samples(64), 0)
    assert fitted.facts["steps"] == 4
    assert fitted.facts["epsilon_valid"]
