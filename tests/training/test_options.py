"""Options of a training: schedules, accumulation, sampling, losses, averages; all of them resume to the bit."""

import time
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustsuite.core.errors import RequestError
from robustsuite.core.streams import Streams
from robustsuite.plugins import defense
from robustsuite.suite.load import load_suite
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import TinyNetwork, tiny_recipe
from robustsuite.training import fit as fit_module
from robustsuite.training.checkpoints import Checkpoint
from robustsuite.training.descent import DescentUpdater, make_optimizer
from robustsuite.training.fabric import make_fabric
from robustsuite.training.fit import fit
from robustsuite.training.parts import CleanLoss, training_loss
from robustsuite.training.schedules import RateSchedule
from robustsuite.training.settings import Training

SAMPLES = tiny_samples(77)


@dataclass(frozen=True)
class Dense:
    """No layer that looks at a batch, and no dropout."""

    def __call__(self, classes, shape, bounds):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, classes))


def recipe(build=None, **settings):
    plain = tiny_recipe()
    training = plain.training.override({"epochs": 2, **settings})
    return replace(plain, training=training, build=build or plain.build)


def weights(fitted):
    return torch.cat([v.flatten().double() for v in fitted.network.state_dict().values()])


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("n", [77, 65, 64])
def test_accumulated_batches_make_the_step_of_one_large_batch(n, clip):
    """77 = 2 x 32 + 13 = 2 x 4 x 8 + 8 + 5; a sample that would be left alone joins the group before."""
    settings = {"precision": "64", "validation": 0.0, "optimizer": "sgd", "lr": 0.5, "momentum": 0.9, "clip": clip}
    small = fit(recipe(Dense(), batch_size=8, accumulate=4, **settings), tiny_samples(n), 0)
    large = fit(recipe(Dense(), batch_size=32, **settings), tiny_samples(n), 0)
    assert torch.allclose(weights(small), weights(large), rtol=0, atol=1e-12)
    assert small.history[0]["train_loss"] == pytest.approx(large.history[0]["train_loss"])
    other = fit(recipe(Dense(), batch_size=8, **settings), tiny_samples(n), 0)
    assert not torch.allclose(weights(other), weights(large), atol=1e-3)


def rates(training, steps, warmup=0, scores=()):
    optimizer = make_optimizer(nn.Linear(2, 2), training)
    schedule, found = RateSchedule(optimizer, training, steps, warmup), []
    scores = dict(scores)
    for step in range(steps):
        found.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
        if step in scores:
            schedule.validated(scores[step])
    return found


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_warming_up_rises_to_the_peak_and_the_schedule_follows(schedule):
    plain = Training(schedule=schedule, lr=0.5)
    assert rates(plain, 12, 4) == pytest.approx([0.125, 0.25, 0.375, 0.5, *rates(plain, 8)])


def test_a_plateau_takes_a_tenth_after_two_epochs_without_a_better_score():
    scores = enumerate([0.5, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6, 0.9, 0.9])
    found = rates(Training(schedule="plateau", lr=1.0), 10, scores=scores)
    assert found == pytest.approx([1.0] * 5 + [0.1] * 2 + [0.01] * 3)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "step"])
def test_schedules_are_those_of_torch(schedule):
    """Bit for bit, so that trainings of before are repeated."""
    for steps in (1, 2, 3, 7, 50):
        optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.003)
        if schedule == "one-cycle":
            torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.003, steps + 1, cycle_momentum=False)
        elif schedule == "cosine":
            torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        else:
            torchs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [-(-steps // 2), -(-3 * steps // 4)])
        expected = []
        for _ in range(steps):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            torchs.step()
        found = rates(Training(schedule=schedule, lr=0.003), steps)
        assert found == (expected if schedule == "one-cycle" else pytest.approx(expected))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_weight_decay_spares_norms_and_biases(optimizer):
    network = TinyNetwork(4, (0.0, 1.0))
    made = make_optimizer(network, Training(optimizer=optimizer, weight_decay=0.1))
    decayed = {id(p) for group in made.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(network.features[0].weight), id(network.head.weight)}
    assert {group["weight_decay"] for group in made.param_groups} == {0.1, 0.0}
    assert sum(len(group["params"]) for group in made.param_groups) == len([*network.parameters()])


def test_nesterov_looks_ahead():
    """Two steps on f(w) = w: the first moves by lr (1 + m), where plain momentum moves by lr."""
    moved = {}
    for nesterov in (True, False):
        line = nn.Linear(1, 1, bias=False)
        made = make_optimizer(line, Training(optimizer="sgd", lr=0.1, momentum=0.5, nesterov=nesterov))
        before = float(line.weight.detach())
        line(torch.ones(1, 1)).sum().backward()
        made.step()
        moved[nesterov] = before - float(line.weight.detach())
    assert moved[True] == pytest.approx(0.15)
    assert moved[False] == pytest.approx(0.1)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_is_that_of_the_paper(gamma):
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    found = training_loss(Training(focal=gamma), SAMPLES)(logits, y)
    p = logits.softmax(1).gather(1, y[:, None])[:, 0]
    expected = -((1 - p) ** gamma) * p.log()
    assert torch.allclose(found, expected)
    slopes = [torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (found, expected)]
    assert torch.allclose(*slopes)
    certain = torch.tensor([[1e4, 0.0]], requires_grad=True)
    training_loss(Training(focal=gamma), SAMPLES)(certain, torch.tensor([0])).sum().backward()
    assert certain.grad.abs().max() < 1e-6
    assert torch.equal(training_loss(Training(), SAMPLES)(logits, y), F.cross_entropy(logits, y, reduction="none"))


def test_balanced_sampling_draws_each_class_alike():
    samples = tiny_samples(800)
    kept = torch.cat([(samples.y == 0).nonzero()[:, 0], (samples.y == 1).nonzero()[:20, 0]])
    skewed = samples.take(kept)  # 200 and 20 of two of four classes
    network, training = nn.Linear(2, 2), Training(sampling="balanced", batch_size=32)
    updater = DescentUpdater(network, skewed, training, Streams(0), make_fabric("cpu"))
    epochs = [torch.cat([*updater.batches(epoch)]) for epoch in range(10)]
    assert {len(rows) for rows in epochs} == {220}
    assert not torch.equal(*epochs[:2])
    assert torch.equal(epochs[0], torch.cat([*updater.batches(0)]))
    rare = float((skewed.y[torch.cat(epochs)] == 1).double().mean())
    assert abs(rare - 0.5) < 4 * (0.25 / 2200) ** 0.5


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_is_of_the_weights_after_each_step_and_of_none_before(accumulate, monkeypatch):
    seen, decay = [], 0.9
    before = DescentUpdater.step

    def step(self, losses):
        before(self, losses)
        if self.moved:
            seen.append({name: held.clone() for name, held in self.network.state_dict().items()})

    monkeypatch.setattr(DescentUpdater, "step", step)
    fitted = fit(recipe(epochs=1, batch_size=16, ema=decay, validation=0.0, accumulate=accumulate), SAMPLES, 0)
    assert len(seen) == -(-77 // (16 * accumulate))
    shares = torch.tensor([decay ** (len(seen) - 1 - i) for i in range(len(seen))], dtype=torch.float64)
    shares /= shares.sum()
    for name, found in fitted.network.state_dict().items():
        if found.is_floating_point():
            expected = sum(share * one[name].double() for share, one in zip(shares, seen, strict=True))
            assert torch.allclose(found.double(), expected, atol=1e-6), name
        else:
            assert torch.equal(found, seen[-1][name])


def test_an_average_without_memory_is_the_last_weights():
    plain = fit(recipe(keep_best=False), SAMPLES, 0)
    assert torch.equal(weights(plain), weights(fit(recipe(keep_best=False, ema=0.0), SAMPLES, 0)))
    assert not torch.equal(weights(plain), weights(fit(recipe(keep_best=False, ema=0.9), SAMPLES, 0)))


class KilledError(Exception):
    """As a signal would."""


@dataclass(frozen=True)
class Kills:
    """Ends the training at a batch."""

    at: int
    seen: list

    def __call__(self, batch, streams):
        self.seen.append(1)
        if len(self.seen) == self.at:
            raise KilledError
        return batch


ALL = {
    "optimizer": "sgd",
    "lr": 0.05,
    "momentum": 0.9,
    "nesterov": True,
    "schedule": "plateau",
    "warmup": 1,
    "accumulate": 2,
    "sampling": "balanced",
    "ema": 0.9,
    "focal": 1.0,
    "augment": ({"crop": {"padding": 1}}, "mixup"),
    "clip": 1.0,
    "weight_decay": 1e-3,
}


def test_whatever_step_a_training_is_killed_at_it_resumes_to_the_bit(tmp_path, monkeypatch):
    """Six epochs of five batches; scores are planted, so that the rate falls twice on the way."""

    @dataclass(frozen=True)
    class Planted(CleanLoss):
        def validate(self, network, held_out, step):
            return {**super().validate(network, held_out, step), "score": [0.5, 0.6, 0.1, 0.1, 0.2, 0.1][step.epoch]}

    monkeypatch.setattr(fit_module, "Checkpoint", lambda path: Checkpoint(path, seconds_between=0.0))
    asked = replace(recipe(epochs=6, batch_size=16, keep_best=False, **ALL), objective=Planted())
    straight = fit(asked, SAMPLES, 0)
    places = Streams(4).permutation(30)[:10] + 1
    for at in places.tolist():
        path = tmp_path / f"{at}.pt"
        with pytest.raises(KilledError):
            fit(asked.with_augment(Kills(at, [])), SAMPLES, 0, checkpoint=path)
        assert path.is_file() == (at > 5)
        resumed = fit(asked, SAMPLES, 0, checkpoint=path)
        assert torch.equal(weights(straight), weights(resumed)), at
        assert straight.history == resumed.history


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"nesterov": True}, "sgd with a positive momentum"),
        ({"nesterov": True, "optimizer": "sgd"}, "sgd with a positive momentum"),
        ({"schedule": "plateau", "validation": 0.0}, "schedule='plateau'; set validation: 0.1"),
        ({"warmup": 1, "schedule": "one-cycle"}, "warmup=1; it has its own"),
        ({"warmup": 5}, "a warmup below the 5 epochs, got warmup=5"),
        ({"focal": 2.0, "label_smoothing": 0.1}, "focal=2.0; drop one of them"),
        ({"sampling": "balanced", "class_weights": "balanced"}, "which would correct twice"),
        ({"ema": 1.0}, r"in \[0, 1\), got ema=1.0"),
        ({"accumulate": 0}, "got accumulate=0"),
        ({"sampling": "weighted"}, "got sampling='weighted'"),
    ],
)
def test_settings_that_have_no_meaning_are_refused(wrong, told):
    with pytest.raises(RequestError, match=told):
        Training(**wrong)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sampling": "balanced"}, "sampling='shuffled' under dp-sgd"),
        ({"accumulate": 2}, "accumulate=1 under dp-sgd, got accumulate=2; max_physical_batch"),
        ({"schedule": "plateau"}, "looks at no data under dp-sgd, got schedule='plateau'"),
    ],
)
def test_private_training_refuses_what_it_cannot_account_for(settings, told):
    with pytest.raises(RequestError, match=told):
        defense("dp-sgd", epsilon=3.0)(recipe(**settings))


def test_a_suite_takes_every_option_and_sweeps_them(tmp_path):
    path = tmp_path / "all.yaml"
    text = """
name: all
dataset: {name: digits, train: 60, test: 20}
model: {name: cnn, norm: group}
training: {epochs: 3, optimizer: sgd, momentum: 0.9, nesterov: true, schedule: plateau, warmup: 1, accumulate: 2,
  sampling: balanced, focal: 2.0, ema: 0.99, augment: [flip, {crop: {padding: 1}}, mixup]}
defenses: [none, none: {label: averaged, training: {ema: [0.9, 0.99], augment: [crop]}}]
"""
    path.write_text(text, encoding="utf-8")
    suite = load_suite(path)
    assert suite.training.augment == ("flip", {"crop": {"padding": 1}}, "mixup")
    assert len(suite.defenses) == 3
    assert [suite.training_for(use).ema for use in suite.defenses] == [0.99, 0.9, 0.99]
    assert [suite.training_for(use).augment for use in suite.defenses][1:] == [("crop",)] * 2
    again = tmp_path / "again.yaml"
    again.write_text(suite.to_yaml(), encoding="utf-8")
    assert load_suite(again) == suite
    path.write_text(text.replace("crop: {padding: 1}", "crop: {pad: 1}"), encoding="utf-8")
    with pytest.raises(RequestError, match=r"an option of crop, got augment.crop.pad=1"):
        load_suite(path)


def test_training_seconds_begin_after_what_is_imported(monkeypatch):
    def slow(device, precision="32"):
        time.sleep(1.0)
        return make_fabric(device, precision)

    fit(recipe(epochs=1), SAMPLES, 0)
    before = fit(recipe(epochs=1), SAMPLES, 0).facts["train_seconds"]
    monkeypatch.setattr(fit_module, "make_fabric", slow)
    assert fit(recipe(epochs=1), SAMPLES, 0).facts["train_seconds"] < before + 0.8
