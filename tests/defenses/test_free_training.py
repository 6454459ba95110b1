"""Free adversarial training: its equations by hand, its cost, and going on after a kill."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from adversarial_recipes import brief, recipe_of, step_of
from torch import nn

from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.plugins import defense
from robustsuite.testing import tiny_samples
from robustsuite.training.fit import fit
from robustsuite.training.recipe import Recipe
from robustsuite.training.schedules import RateSchedule
from robustsuite.training.settings import Training


@dataclass(frozen=True)
class Linear:
    """One layer, from known weights."""

    def __call__(self, classes, shape, bounds):
        network = nn.Linear(shape[0], classes)
        nn.init.zeros_(network.weight)
        nn.init.zeros_(network.bias)
        nn.init.constant_(network.weight[0], 0.5)
        return network


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_its_replays_are_the_equations(norm):
    """Shafahi et al.: w <- w - lr grad_w l(x + d) and d <- clip(d + r sign(grad_x l(x + d))) from one backward pass."""
    replays, lr, n = 3, 0.3, 10
    torch.manual_seed(0)
    samples = Samples(torch.rand(n, 5, dtype=torch.float64), torch.arange(n) % 2, 2)
    settings = Training(
        epochs=4, optimizer="sgd", lr=lr, batch_size=4, validation=0.0, normalise="none", precision="64"
    )
    plain = Recipe(build=Linear(), training=settings, threat=Ball(norm, 0.2))
    fitted = fit(defense("free-training", replays=replays)(plain), samples, 0)

    w, b = torch.zeros(2, 5, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    w[0] = 0.5
    shift = torch.zeros(4, 5, dtype=torch.float64)
    streams = Streams(0).child("training")
    for epoch in range(2):  # 4 epochs by 3 replays, rounded up
        order = streams.child("order", epoch).permutation(n)
        for index in torch.split(order, [4, 4, 2]):
            x, y, rows = samples.x[index], samples.y[index], len(index)
            for _ in range(replays):
                seen = (x + shift[:rows]).clamp(0, 1)
                error = (seen @ w.T + b).softmax(1) - F.one_hot(y, 2)
                slope = error @ w / rows
                w, b = w - lr * error.T @ seen / rows, b - lr * error.sum(0) / rows
                if norm == "linf":
                    shift[:rows] = (shift[:rows] + 0.2 * slope.sign()).clamp(-0.2, 0.2)
                else:
                    ahead = shift[:rows] + 0.2 * slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-300)
                    shift[:rows] = ahead * (0.2 / ahead.norm(dim=1, keepdim=True).clamp_min(1e-300)).clamp_max(1)
    assert torch.allclose(fitted.network.weight, w, atol=1e-9)
    assert torch.allclose(fitted.network.bias, b, atol=1e-9)
    assert (fitted.facts["epochs"], fitted.facts["replays"]) == (2, 3)
    assert fitted.facts["passes"] == {"forward": 1.0, "backward": 1.0, "multiple": 1.0}


def test_running_statistics_move_with_each_replay():
    fitted = fit(brief(recipe_of("free-training", replays=4), epochs=1, keep_best=False), tiny_samples(64), 0)
    assert int(fitted.network.features[1].num_batches_tracked) == 2 * 4  # 58 samples in batches of 32


def test_a_killed_training_goes_on_to_the_bit(tmp_path):
    recipe = brief(recipe_of("free-training", replays=2), epochs=3)
    straight = fit(recipe, tiny_samples(64), 0)

    def kill(what, done, of):
        if done == 2:
            raise KeyboardInterrupt

    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, tiny_samples(64), 0, checkpoint=path, progress=kill)
    resumed = fit(recipe, tiny_samples(64), 0, checkpoint=path)
    assert resumed.history == straight.history
    assert resumed.facts["passes"] == straight.facts["passes"]
    for one, other in zip(resumed.network.parameters(), straight.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_any_schedule_lasts_as_long_as_the_replays():
    for schedule in ("one-cycle", "cosine", "step"):
        fitted = fit(brief(recipe_of("free-training", replays=3), epochs=1, schedule=schedule), tiny_samples(64), 0)
        assert len(fitted.history) == 1


def test_warming_up_takes_the_share_of_steps_that_it_takes_in_plain_training(monkeypatch):
    """8 epochs of 2 batches with 4 warm: 2 epochs with 4 replays are 16 steps, of which 8 are warm."""
    rates = []
    keep = RateSchedule._set
    monkeypatch.setattr(
        RateSchedule, "_set", lambda self: (keep(self), rates.append(self._optimizer.param_groups[0]["lr"]))
    )
    plain = Recipe(build=Linear(), training=Training(epochs=8, warmup=4, batch_size=5, lr=0.8, validation=0.0))
    samples = Samples(torch.rand(10, 5), torch.arange(10) % 2, 2)
    fit(defense("free-training", replays=4, norm="linf", radius=0.1)(plain), samples, 0)
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8] + [0.8] * 9)


def test_a_batch_may_be_longer_than_those_before():
    """Nine samples in batches of four: one that would be left alone joins the second."""
    plain = Recipe(build=Linear(), training=Training(epochs=2, batch_size=4, validation=0.0))
    samples = Samples(torch.rand(9, 5), torch.arange(9) % 2, 2)
    assert len(fit(defense("free-training", norm="linf", radius=0.1)(plain), samples, 0).history) == 1


def test_accumulating_is_refused_beside_it():
    plain = Recipe(build=Linear(), training=Training(accumulate=2))
    with pytest.raises(RequestError, match="accumulate=2; each replay is a step"):
        defense("free-training", norm="linf", radius=0.1)(plain)


def test_it_buys_robustness():
    """Measured: 0.145 against 0.035; steps of a whole radius then collapse here, and the monitor stops them."""
    recipe = recipe_of("free-training", Ball("linf", 0.05), replays=4)
    hard = fit(brief(recipe, epochs=6), tiny_samples(320), 0)
    plain = fit(recipe_of("noise-training", Ball("linf", 0.05)), tiny_samples(320), 0)
    test, step = tiny_samples(200, first=10_000), step_of(tiny_samples(8))
    robust = [recipe.objective.validate(f.network, test, step)["robust_accuracy"] for f in (hard, plain)]
    assert robust[0] > robust[1] + 0.05


def test_private_training_is_refused_beside_it():
    free, private = (
        defense("free-training", norm="linf", radius=0.1),
        defense("dp-sgd", noise_multiplier=1.0, delta=1e-3),
    )
    plain = recipe_of("input-validation")
    for one, other in ((free, private), (private, free)):
        with pytest.raises(RequestError, match="expected one update"):
            other(one(plain))
