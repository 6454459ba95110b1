"""The network that docs/by-hand.md derives in NumPy is our `mlp`: logits, loss, gradients, steps, and FGSM."""

import copy
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import robustsuite as rs
from robustsuite.core.samples import Samples
from robustsuite.models.build import ModelSpec
from robustsuite.training.fit import fit, make_network
from robustsuite.training.parts import training_loss
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

PAGE = (Path(__file__).parents[2] / "docs" / "by-hand.md").read_text()
CODE = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
LAYERS = {"W1": "body.1.weight", "b1": "body.1.bias", "W2": "body.3.weight", "b2": "body.3.bias"}
CLASSES, SMOOTHING, STEPS = 3, 0.1, 4
SETTINGS = Training(
    epochs=STEPS, optimizer="sgd", lr=0.3, momentum=0.9, batch_size=24, validation=0.0, label_smoothing=SMOOTHING,
    precision="64",
)  # fmt: skip
RECIPE = Recipe(build=ModelSpec("mlp", options=(("hidden", (5,)),)), training=SETTINGS)


def by_hand(code=CODE):
    """The functions of the page."""
    names = {}
    exec(code, names)
    return SimpleNamespace(**names)


def samples():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(24, 1, 3, 4, generator=generator, dtype=torch.float64)
    return Samples(x, torch.randint(CLASSES, (24,), generator=generator), CLASSES)


def arrays(network):
    """The network's weights and its normalisation as the page writes them."""
    state = {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}
    scales = {"mean": state["normalise.mean"].item(), "std": state["normalise.std"].item()}
    return {**{name: state[layer] for name, layer in LAYERS.items()}, **scales}


@pytest.fixture
def network():
    return make_network(RECIPE, samples(), 0).double()


def slopes(network, data):
    """What torch finds: logits, loss, gradients of weights by the page's names, and of inputs."""
    x = data.x.clone().requires_grad_()
    logits = network(x)
    loss = training_loss(SETTINGS, data)(logits, data.y).mean()
    loss.backward()
    weights = dict(network.named_parameters())
    return logits, loss, {name: weights[layer].grad.numpy() for name, layer in LAYERS.items()}, x.grad.flatten(1)


def agree(page, network, data):
    """Whether the page's figures are torch's, to 1e-6 of the greatest."""
    logits, loss, grads, dx = slopes(network, data)
    net, x = arrays(network), data.x.flatten(1).numpy()
    q = page.targets(data.y.numpy(), CLASSES, SMOOTHING)
    by_weight, by_input = page.backward(net, x, q)
    pairs = [(page.forward(net, x)[0], logits.detach().numpy()), (page.loss(net, x, q), loss.item())]
    pairs += [(by_weight[name], grads[name]) for name in LAYERS] + [(by_input, dx.numpy())]
    return [bool(np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()) for ours, theirs in pairs]


def test_logits_loss_and_gradients_are_those_of_torch(network):
    data = samples()
    _, (_, a, _) = by_hand().forward(arrays(network), data.x.flatten(1).numpy())
    assert 0 < (a > 0).mean() < 1, "ReLU has to do something"
    assert agree(by_hand(), network, data) == [True] * 7


@pytest.mark.parametrize(
    ("line", "wrong", "parts"),
    [
        ("dh * (a > 0)", "dh", {2, 3, 6}),
        ("- q) / len(x)", "- q)", {2, 3, 4, 5, 6}),
        ('dz / net["std"]', "dz", {6}),
        ("smoothing / classes", "smoothing", {1, 2, 3, 4, 5, 6}),
    ],
)
def test_a_wrong_derivation_is_told(network, line, wrong, parts):
    assert CODE.count(line) == 1
    found = agree(by_hand(CODE.replace(line, wrong)), network, samples())
    assert {i for i, same in enumerate(found) if not same} == parts


def test_slopes_are_those_of_finite_differences(network):
    """Without torch: the loss on both sides of a weight, a thousandth of a thousandth away."""
    page, net, data = by_hand(), arrays(network), samples()
    x, q = data.x.flatten(1).numpy(), page.targets(data.y.numpy(), CLASSES, SMOOTHING)
    grads, _ = page.backward(net, x, q)
    for name in LAYERS:
        for place in np.ndindex(net[name].shape):
            sides = [copy.deepcopy(net) for _ in range(2)]
            for side, by in zip(sides, (1e-6, -1e-6), strict=True):
                side[name][place] += by
            slope = (page.loss(sides[0], x, q) - page.loss(sides[1], x, q)) / 2e-6
            assert slope == pytest.approx(grads[name][place], abs=1e-8)


def test_a_training_takes_the_steps_of_the_page(network):
    """Each epoch is one batch, so one step; momentum shows from the second on."""
    page, data = by_hand(), samples()
    net, velocity, seen = arrays(network), {}, []
    x, q = data.x.flatten(1).numpy(), page.targets(data.y.numpy(), CLASSES, SMOOTHING)
    for _ in range(STEPS):
        seen.append(page.loss(net, x, q))
        net, velocity = page.step(net, page.backward(net, x, q)[0], velocity, SETTINGS.lr, SETTINGS.momentum)
    fitted = fit(RECIPE, data, 0)
    assert [row["train_loss"] for row in fitted.history] == pytest.approx(seen, rel=1e-6)
    after, before = arrays(fitted.network), arrays(network)
    for name in LAYERS:
        np.testing.assert_allclose(after[name], net[name], rtol=0, atol=1e-6)
        assert np.abs(after[name] - before[name]).max() > 1e-2


def test_fgsm_takes_the_step_of_the_page(network):
    """What the network gets wrong as it is stays where it is."""
    page, data, net = by_hand(), samples(), arrays(network)
    x, q = data.x.flatten(1).numpy(), page.targets(data.y.numpy(), CLASSES)
    right = page.forward(net, x)[0].argmax(axis=1) == data.y.numpy()
    assert right.any()
    moved = rs.perturb("fgsm", network.eval(), data.x, data.y, ("linf", 0.05)).flatten(1).numpy()
    np.testing.assert_allclose(moved[right], page.fgsm(net, x, q, 0.05)[right], atol=1e-6)
    np.testing.assert_array_equal(moved[~right], x[~right])
