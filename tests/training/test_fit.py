"""Training: seeds, early stopping, best weights, resumption, and what is never done twice."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from robustsuite.errors import RequestError, RobustsuiteError
from robustsuite.store import Store
from robustsuite.streams import Streams
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_recipe
from robustsuite.training import fit as fit_module
from robustsuite.training.cache import Trainer
from robustsuite.training.checkpoints import Checkpoint
from robustsuite.training.fit import divide, fit
from robustsuite.training.recipe import CleanLoss, training_loss
from robustsuite.training.settings import Training


def recipe(**changes):
    plain = tiny_recipe()
    return dataclasses.replace(plain, training=plain.training.override(changes))


def weights(fitted):
    return torch.cat([v.flatten().double() for v in fitted.network.state_dict().values()])


def test_learns_and_repeats_bit_for_bit():
    samples = tiny_samples(320)
    one, other = fit(recipe(), samples, 0), fit(recipe(), samples, 0)
    assert torch.equal(weights(one), weights(other))
    assert not torch.equal(weights(one), weights(fit(recipe(), samples, 1)))
    assert one.history[-1]["validation_accuracy"] > 0.9
    assert [row["epoch"] for row in one.history] == list(range(6))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle", "step"])
def test_every_optimizer_and_schedule_lowers_the_loss(optimizer, schedule):
    settings = {"optimizer": optimizer, "schedule": schedule, "lr": 0.05 if optimizer == "sgd" else 0.01, "clip": 1.0}
    history = fit(recipe(epochs=5, **settings), tiny_samples(200), 0).history
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.float32), ("64", torch.float64)])
def test_precisions(precision, dtype):
    fitted = fit(recipe(precision=precision), tiny_samples(200), 0)
    assert {p.dtype for p in fitted.network.parameters()} == {dtype}
    assert fitted.history[-1]["validation_accuracy"] > 0.8


def test_held_out_is_stratified_disjoint_and_seeded():
    samples = tiny_samples(200)
    train, held = divide(recipe(validation=0.2), samples, Streams(0))
    assert (len(train), len(held)) == (160, 40)
    assert not set(train.ids.tolist()) & set(held.ids.tolist())
    assert torch.bincount(held.y).tolist() == [10, 10, 10, 10]
    again = divide(recipe(validation=0.2), samples, Streams(1))[1]
    assert again.ids.tolist() != held.ids.tolist()


def test_early_stopping_keeps_the_best_epoch():
    """Validation scores are planted: the best is epoch 1, and patience 2 stops after epoch 3."""
    scores = iter([0.5, 0.9, 0.1, 0.2, 0.95])
    kept = []

    @dataclasses.dataclass(frozen=True)
    class Planted(CleanLoss):
        def validate(self, network, held_out, step):
            kept.append(network.head.weight.detach().clone())
            return {"score": next(scores)}

    chosen = dataclasses.replace(recipe(epochs=5, patience=2), objective=Planted())
    fitted = fit(chosen, tiny_samples(120), 0)
    assert len(fitted.history) == 4
    assert torch.equal(fitted.network.head.weight, kept[1])
    last = dataclasses.replace(recipe(epochs=4, keep_best=False), objective=Planted())
    scores = iter([0.9, 0.1, 0.1, 0.1])
    kept.clear()
    assert torch.equal(fit(last, tiny_samples(120), 0).network.head.weight, kept[3])


def test_a_killed_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    samples, settings = tiny_samples(160), recipe(epochs=5, schedule="cosine", optimizer="sgd", momentum=0.9, lr=0.05)
    straight = fit(settings, samples, 0)

    class Eager(Checkpoint):
        def __init__(self, path):
            super().__init__(path, seconds_between=0.0)

    monkeypatch.setattr(fit_module, "Checkpoint", Eager)

    class KilledError(Exception):
        pass

    def kill(_, done, total):
        if done == 3:
            raise KilledError

    path = tmp_path / "partial.pt"
    with pytest.raises(KilledError):
        fit(settings, samples, 0, checkpoint=path, progress=kill)
    assert path.is_file()
    epochs = []
    resumed = fit(settings, samples, 0, checkpoint=path, progress=lambda _, done, total: epochs.append(done))
    assert epochs == [4, 5]
    assert torch.equal(weights(straight), weights(resumed))
    assert not path.exists()


def test_a_torn_checkpoint_costs_a_fresh_start(tmp_path):
    path = tmp_path / "partial.pt"
    path.write_bytes(b"PK\x03\x04 torn")
    assert torch.equal(
        weights(fit(recipe(), tiny_samples(80), 0, checkpoint=path)), weights(fit(recipe(), tiny_samples(80), 0))
    )


def test_a_cached_training_is_never_done_twice(tmp_path):
    trained = []
    trainer = Trainer(0, stores=(Store(tmp_path),), progress=lambda what, done, total: trained.append(done))
    samples = tiny_samples(160)
    first = trainer(recipe(), samples)
    count = len(trained)
    second = trainer(recipe(), samples)
    assert len(trained) == count == 6
    x = samples.x[:20]
    assert torch.equal(first.model(x).logits, second.model(x).logits)
    assert first.history == second.history
    trainer(recipe(epochs=5), samples)
    assert len(trained) == count + 5


def test_the_key_knows_what_matters(tmp_path):
    trainer, samples = Trainer(0, stores=(Store(tmp_path),)), tiny_samples(80)
    base = trainer.key(recipe(), samples)
    assert trainer.key(recipe(), samples) == base
    assert trainer.key(recipe(lr=2e-2), samples) != base
    assert Trainer(1).key(recipe(), samples) != base
    flipped = samples.with_rows(torch.tensor([3]), samples.x[3:4], (samples.y[3:4] + 1) % 4)
    assert trainer.key(recipe(), flipped) != base


def test_weighted_and_smoothed_losses_match_their_definitions():
    samples = tiny_samples(100)
    skewed = samples.take(torch.cat([(samples.y == 0).nonzero()[:, 0], (samples.y != 0).nonzero()[:30, 0]]))
    logits, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    counts = torch.bincount(skewed.y, minlength=4).double()
    balanced = training_loss(Training(class_weights="balanced"), skewed)(logits, y)
    plain = F.cross_entropy(logits, y, reduction="none")
    assert torch.allclose(balanced, plain * (len(skewed) / (4 * counts))[y])
    smooth = training_loss(Training(label_smoothing=0.1), skewed)(logits, y)
    log_p = logits.log_softmax(1)
    assert torch.allclose(smooth, -0.9 * log_p.gather(1, y[:, None])[:, 0] - 0.1 * log_p.mean(1))


def test_clipping_bounds_the_step():
    """With plain SGD, lr 1 and clip c, one step moves the weights by at most c."""
    from robustsuite.training.fit import make_network

    samples = tiny_samples(32)
    settings = recipe(epochs=1, optimizer="sgd", lr=1.0, clip=1e-3, batch_size=32, validation=0.0)
    before = make_network(settings, samples, 0)
    after = fit(settings, samples, 0).network
    moved = [a - b for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert 0 < torch.cat([m.flatten() for m in moved]).norm() <= 1e-3 * 1.0001


def test_a_diverging_loss_is_an_error_that_names_the_remedy():
    with pytest.raises(RobustsuiteError, match=r"lower lr"):
        fit(recipe(optimizer="sgd", lr=1e38, epochs=3), tiny_samples(64), 0)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"lr": 0.0}, {"optimizer": "adamm"}, {"validation": 0.9}, {"precision": "8"}, {"clip": -1.0}],
)
def test_impossible_settings_show_their_value(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(RequestError, match=f"{name}={value!r}"):
        Training(**wrong)


@pytest.mark.parametrize("precision", ["32", "64"])
def test_shared_layers_and_precision_survive_the_cache(tmp_path, precision):
    """A layer used twice shares its memory; a float64 buffer in a float32 network does not make it double."""

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.again = torch.nn.Linear(64, 64)
            self.head = torch.nn.Linear(64, 4)
            self.register_buffer("scale", torch.ones((), dtype=torch.float64))

        def forward(self, x):
            return self.head(self.again(self.first(x.flatten(1)).relu()).relu()) / self.scale.to(x.dtype)

    @dataclasses.dataclass(frozen=True)
    class Build:
        name: str = "twice"

        def __call__(self, classes, shape, bounds):
            return Twice()

    chosen = dataclasses.replace(recipe(epochs=1, precision=precision), build=Build())
    trainer, samples = Trainer(0, stores=(Store(tmp_path),)), tiny_samples(80)
    first, second = trainer.fit(chosen, samples), trainer.fit(chosen, samples)
    assert torch.equal(weights(first), weights(second))
    assert second.network.head.weight.dtype == {"32": torch.float32, "64": torch.float64}[precision]


def test_one_cycle_brings_in_no_momentum():
    from robustsuite.training.descent import make_optimizer, make_schedule

    settings = Training(optimizer="sgd", momentum=0.0, schedule="one-cycle")
    optimizer = make_optimizer(torch.nn.Linear(2, 2), settings)
    make_schedule(optimizer, settings, 10)
    assert optimizer.param_groups[0]["momentum"] == 0.0
