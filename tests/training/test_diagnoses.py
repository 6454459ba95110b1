"""Diagnoses: each on a real training that has the fault, and silent on ten ordinary ones that have not."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from robustsuite.core.ball import Ball
from robustsuite.core.errors import RobustsuiteError
from robustsuite.core.samples import Samples
from robustsuite.data.catalogue import load_data
from robustsuite.models.build import ModelSpec
from robustsuite.plugins.by_name import defense
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_recipe
from robustsuite.training.diagnosis import TrainingFault, read
from robustsuite.training.fit import fit
from robustsuite.training.parts import CleanLoss
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training


@dataclass(frozen=True)
class Layers:
    """Dense layers of 32 units with an activation; weights times `gain`, and biases moved by `shift`."""

    depth: int = 2
    activation: str = "ReLU"
    gain: float = 1.0
    shift: float = 0.0
    normalise: bool = True

    def __call__(self, classes, shape, bounds):
        layers = [nn.Flatten()]
        width = torch.Size(shape).numel()
        if self.normalise:
            layers.append(nn.BatchNorm1d(width))
        for _ in range(self.depth):
            layers += [nn.Linear(width, 32), getattr(nn, self.activation)()]
            width = 32
        net = nn.Sequential(*layers, nn.Linear(width, classes))
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.weight.data *= self.gain
        net[-3].bias.data += self.shift
        return net


def digits(n=600):
    return load_data("digits", "train", samples=n)


def names(recipe, samples):
    return [found.name for found in read(fit(recipe, samples, 0).facts)]


def recipe(build, **settings):
    return Recipe(build=build, training=Training(**{"epochs": 4, "lr": 3e-3, "batch_size": 32, **settings}))


def _shuffled(samples):
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    return replace(samples, y=samples.y[order])


def _rare(samples):
    return samples.take((samples.y == 0) | (torch.arange(len(samples)) % 20 == 0))


def _noise(n=120):
    """One weak feature among 63 of noise: what is learnt beyond it is learnt by heart."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = torch.rand(n, 64, generator=draws)
    x[:, 0] = 0.15 * y + 0.85 * x[:, 0]
    x[:, 1] = 0.3 * y + 0.7 * x[:, 1]
    return Samples(x, y, 2)


def _pixels(samples):
    return replace(samples, x=samples.x * 255, bounds=(0.0, 255.0))


FAULTS = {
    "loss not falling": lambda: (recipe(Layers(), optimizer="sgd", lr=1e-6), digits()),
    "one class predicted": lambda: (recipe(Layers(), optimizer="sgd", lr=30.0, epochs=1), digits()),
    "overfitting": lambda: (recipe(Layers(), epochs=25, validation=0.5), _noise(400)),
    "dead units": lambda: (recipe(Layers(shift=-20.0), epochs=2), digits()),
    "vanishing gradients": lambda: (recipe(Layers(depth=10, activation="Sigmoid"), optimizer="sgd"), digits()),
    "exploding gradients": lambda: (recipe(Layers(depth=8, gain=8.0), optimizer="sgd", lr=1e-9), digits()),
    "imbalance": lambda: (recipe(Layers()), _rare(digits())),
    "data not normalised": lambda: (recipe(Layers(normalise=False)), _pixels(digits())),
    "labels shuffled": lambda: (recipe(Layers(), epochs=25, validation=0.2), _shuffled(digits(300))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_training_with_a_fault_is_told(fault):
    found = read(fit(*FAULTS[fault](), 0).facts)
    assert fault in [one.name for one in found]
    told = next(one for one in found if one.name == fault)
    assert told.mend
    assert told.seen
    assert told.value == told.value


def test_labels_that_no_network_can_learn_are_told_before_they_are_learnt_by_heart():
    """After one epoch the loss is that of chance; neighbours tell shuffled labels from a rate that is too low."""
    slow = recipe(Layers(), optimizer="sgd", lr=1e-6, epochs=1)
    assert "labels shuffled" in names(slow, _shuffled(digits()))
    assert "labels shuffled" not in names(slow, digits())


def test_labels_learnt_by_heart_are_told_from_overfitting():
    """All of the training samples are right and no more than by chance of the others: nothing there is to learn."""
    late = recipe(Layers(), epochs=40, validation=0.3, keep_best=False, lr=1e-2)
    assert [name for name in names(late, _shuffled(digits(200))) if name != "dead units"] == ["labels shuffled"]


def _defended(name, **options):
    plain = recipe(ModelSpec("mlp"), epochs=3)
    return defense(name, **options)(replace(plain, threat=Ball("linf", 0.1)))


def _private(**settings):
    made = _defended("dp-sgd", epsilon=8.0, delta=1e-4)
    return replace(made, training=made.training.override(settings))


def _flipped(samples):
    """A fifth of the labels is poisoned."""
    rows = torch.arange(0, len(samples), 5)
    return samples.with_rows(rows, samples.inputs(rows), (samples.y[rows] + 1) % samples.classes)


ORDINARY = {
    "logistic": lambda: (recipe(ModelSpec("logistic")), digits()),
    "mlp, sgd": lambda: (recipe(ModelSpec("mlp"), optimizer="sgd", lr=0.05, momentum=0.9), digits()),
    "mlp, one epoch": lambda: (recipe(ModelSpec("mlp"), epochs=1), digits()),
    "cnn, adamw": lambda: (recipe(ModelSpec("cnn"), epochs=2, optimizer="adamw", weight_decay=0.01), digits()),
    "tanh, unnormalised": lambda: (recipe(Layers(3, "Tanh", normalise=False)), digits()),
    "batch norm, dropout": lambda: (tiny_recipe(), tiny_samples(320)),
    "without validation": lambda: (recipe(ModelSpec("mlp"), validation=0.0, schedule="cosine"), digits()),
    "label smoothing": lambda: (recipe(ModelSpec("mlp"), label_smoothing=0.2, class_weights="balanced"), digits()),
    "poisoned labels": lambda: (recipe(ModelSpec("mlp")), _flipped(digits())),
    "adversarial training": lambda: (_defended("adversarial-training"), digits()),
    "dp-sgd": lambda: (_private(validation=0.2), digits(400)),
    "weighted imbalance": lambda: (recipe(ModelSpec("mlp"), class_weights="balanced"), _rare(digits())),
}


@pytest.mark.parametrize("case", ORDINARY)
def test_an_ordinary_training_is_told_nothing(case):
    facts = fit(*ORDINARY[case](), 0).facts
    assert facts["diagnoses"] == []


def test_a_look_costs_a_batch_and_a_hundredth_and_changes_nothing(monkeypatch):
    """Counted in samples that the network sees; the weights are those of a training that nobody looks at."""
    from robustsuite.training import fit as fitting

    passes = [0]

    @dataclass(frozen=True)
    class Counted:
        def __call__(self, classes, shape, bounds):
            net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, classes))
            net.register_forward_pre_hook(lambda _, given: passes.__setitem__(0, passes[0] + len(given[0])))
            return net

    plain = recipe(Counted(), epochs=2, validation=0.0, batch_size=50)
    seen = fit(plain, digits(500), 0)
    looked = passes[0]
    passes[0] = 0
    monkeypatch.setattr(fitting, "look_at", lambda *_, **__: {})
    unseen = fit(plain, digits(500), 0)
    assert (looked - passes[0], passes[0]) == (50 + 2 * 500 // 100, 2 * 500)
    assert all(torch.equal(a, b) for a, b in zip(seen.network.parameters(), unseen.network.parameters(), strict=True))
    assert "diagnoses" in seen.facts
    assert "diagnoses" not in unseen.facts


def test_private_samples_are_not_looked_at():
    """Where epsilon is stated, what was not held out is not looked at, and without held-out samples nothing is."""
    assert "diagnoses" not in fit(_private(validation=0.0), digits(200), 0).facts


def test_a_look_that_fails_costs_no_training_and_is_told(monkeypatch, caplog):
    def planted(*_):
        raise ValueError("planted")

    monkeypatch.setattr("robustsuite.training.watching.probe", planted)
    facts = fit(recipe(Layers()), tiny_samples(64), 0).facts
    assert facts["diagnoses_error"] == "ValueError: planted"
    assert "diagnoses" not in facts
    (warned,) = (entry for entry in caplog.records if entry.levelname == "WARNING")
    assert "could not be looked at" in warned.message
    assert "planted" in warned.message


def test_running_out_of_memory_names_the_settings():
    @dataclass(frozen=True)
    class Large(CleanLoss):
        def __call__(self, network, batch, step):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")

    with pytest.raises(RobustsuiteError, match=r"batch_size=32; lower batch_size and raise accumulate"):
        fit(replace(recipe(Layers()), objective=Large()), tiny_samples(64), 0)


def test_a_diverging_training_names_exploding_gradients():
    with pytest.raises(RobustsuiteError, match="gradients explode; lower lr"):
        fit(recipe(Layers(normalise=False), optimizer="sgd", lr=1e30), digits(200), 0)


def test_a_diagnosis_of_a_later_version_is_left_out():
    known = {"name": "overfitting", "seen": "a gap of 0.4", "value": 0.4, "limit": 0.15, "mend": "set patience"}
    found = read({"diagnoses": [known, {**known, "since": 2}, "text"]})
    assert found == (TrainingFault(**known),)
    assert str(found[0]) == "overfitting: a gap of 0.4; set patience"
    assert read({}) == ()
