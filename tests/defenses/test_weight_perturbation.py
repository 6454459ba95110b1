"""AWP: the perturbation has the norm that was asked for, and the gradient is the one at the perturbed weights."""

import copy

import pytest
import torch
from adversarial_recipes import Passes, brief, objective_of, recipe_of, step_of

from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.defenses.awp import PerturbedWeights
from robustsuite.plugins import defense
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_recipe
from robustsuite.training.fit import fit

GAMMA = 0.02
SHORT = {"attack": {"pgd": {"steps": 2}}}


def around(inner):
    return PerturbedWeights(inner=inner, gamma=GAMMA)


def test_each_layer_moves_up_the_loss_by_gamma_of_its_norm():
    samples, network = tiny_samples(16), Passes().eval()
    batch, step = samples.batch(slice(None)), step_of(samples)

    def learn(at):
        return step.loss(at(batch.x), batch.y)

    moved = around(None).perturbed(network, learn)
    slopes = torch.autograd.grad(learn(network).mean(), [network.features[0].weight, network.head.weight])
    assert list(moved) == ["features.0.weight", "head.weight"]  # no bias, no gain of a normalisation
    for (name, there), slope in zip(moved.items(), slopes, strict=True):
        here = network.get_parameter(name)
        assert float((there - here).norm()) == pytest.approx(GAMMA * float(here.norm()), rel=1e-4)
        assert float(torch.cosine_similarity((there - here).flatten(), slope.flatten(), dim=0)) > 0.9999


@pytest.mark.parametrize("name", ["adversarial-training", "trades", "mart"])
def test_the_gradient_is_the_one_at_the_perturbed_weights(name):
    """The same as moving the weights, taking the gradient, and moving them back, as its authors do."""
    samples, network = tiny_samples(16), Passes().eval()
    batch, step, inner = samples.batch(slice(None)), step_of(samples), objective_of(name, **SHORT)
    found = inner.found(network, batch, step)
    there = copy.deepcopy(network)
    there.load_state_dict(
        around(inner).perturbed(network, lambda at: inner.learn(at, batch, found, step)), strict=False
    )
    inner.learn(there, batch, found, step).mean().backward()
    before = copy.deepcopy(network.state_dict())
    losses = around(inner)(network, batch, step)
    losses.mean().backward()
    for (key, ours), theirs in zip(network.named_parameters(), there.parameters(), strict=True):
        assert torch.equal(ours, before[key])
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
    assert float(losses.mean()) > float(inner(network, batch, step).mean())


def test_the_attack_runs_once_and_running_statistics_follow_one_pass():
    samples, network = tiny_samples(16), Passes()
    around(objective_of("adversarial-training", **SHORT))(network.train(), samples.batch(slice(None)), step_of(samples))
    assert [training for training, _ in network.seen] == [False] * 3 + [True] * 2
    assert torch.equal(network.seen[-1][1], network.seen[-2][1])
    assert int(network.features[1].num_batches_tracked) == 1


@pytest.mark.parametrize(
    ("name", "options", "forward", "backward"),
    [
        ("adversarial-training", {}, 13, 12),
        ("trades", {}, 16, 14),
        ("noise-training", {}, 2, 2),
        ("free-training", {}, 2, 2),
    ],
)
def test_it_acts_on_top_of_any_and_says_what_it_costs(name, options, forward, backward):
    recipe = brief(defense("awp")(recipe_of(name, **options)), epochs=1)
    fitted = fit(recipe, tiny_samples(70), 0)
    assert (fitted.facts["passes"]["forward"], fitted.facts["passes"]["backward"]) == (forward, backward)
    assert ("robust_accuracy" in fitted.history[0]) == (name != "noise-training")


def test_it_stands_behind_what_it_acts_on():
    with pytest.raises(RequestError, match=r"PerturbedWeights and TradesLoss.*name what acts on top of it behind"):
        defense("trades")(defense("awp")(tiny_recipe()))


def test_it_keeps_what_adversarial_training_buys():
    attack = {"pgd": {"steps": 3, "step_size": 0.5}}
    recipe = defense("awp", gamma=0.01)(recipe_of("adversarial-training", Ball("linf", 0.05), attack=attack))
    fitted, plain = (fit(one, tiny_samples(320), 0) for one in (recipe, recipe_of("noise-training")))
    monitor = recipe.objective.inner
    test = tiny_samples(200, first=10_000)
    after, before = (monitor.validate(f.network, test, step_of(test))["robust_accuracy"] for f in (fitted, plain))
    assert after > before + 0.1


def test_private_training_refuses_one_perturbation_for_a_batch():
    recipe = defense("awp")(defense("dp-sgd", noise_multiplier=1.0, delta=1e-3)(tiny_recipe()))
    with pytest.raises(RequestError, match="each example acts alone"):
        fit(brief(recipe, epochs=1), tiny_samples(64), 0)
