"""Training: seeds, early stopping, best weights, resumption, and what is never done twice."""

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustsuite.core.errors import RequestError, RobustsuiteError
from robustsuite.core.streams import Streams
from robustsuite.storage.store import Store
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_recipe
from robustsuite.training import fit as fit_module
from robustsuite.training.cache import Trainer
from robustsuite.training.checkpoints import Checkpoint
from robustsuite.training.descent import batch_sizes
from robustsuite.training.fit import divide, fit
from robustsuite.training.parts import CleanLoss, training_loss
from robustsuite.training.settings import SCHEDULES, Training


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
    train, held = divide(samples, 0.2, Streams(0))
    assert (len(train), len(held)) == (160, 40)
    assert not set(train.ids.tolist()) & set(held.ids.tolist())
    assert torch.bincount(held.y).tolist() == [10, 10, 10, 10]
    again = divide(samples, 0.2, Streams(1))[1]
    assert again.ids.tolist() != held.ids.tolist()


def test_poisoned_sets_are_cut_as_their_clean_twins():
    """Wrong today where labels decided the cut: victim and clean twin differed in their validation split."""
    samples = tiny_samples(200)
    rows = torch.arange(0, 200, 4)
    poisoned = samples.with_rows(rows, samples.x[rows], (samples.y[rows] + 1) % 4)
    again = poisoned.with_rows(rows[:5], 1 - samples.x[rows[:5]], samples.y[rows[:5]])
    for share in (0.1, 0.25):
        parts = [divide(s, share, Streams(3).child("training")) for s in (samples, poisoned, again)]
        assert [part[1].ids.tolist() for part in parts] == [parts[0][1].ids.tolist()] * 3
        assert len(parts[0][1]) == 200 * share


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


def test_a_checkpoint_of_another_version_costs_a_fresh_start(tmp_path):
    path = tmp_path / "model.ckpt"
    network = recipe().build(4, (1, 8, 8), (0.0, 1.0))
    torch.save({"network": tuple(network.state_dict().values()), "history": [{"epoch": 0.0}]}, path)
    old, straight = fit(recipe(), tiny_samples(80), 0, checkpoint=path), fit(recipe(), tiny_samples(80), 0)
    assert torch.equal(weights(old), weights(straight))


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
    both = training_loss(Training(class_weights="balanced", label_smoothing=0.1), skewed)(logits, y)
    smoothed = F.cross_entropy(logits, y, reduction="none", label_smoothing=0.1)
    assert torch.allclose(both, smoothed * (len(skewed) / (4 * counts))[y])
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


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("optimizer", "momentum"), [("sgd", 0.0), ("sgd", 0.5), ("sgd", 0.9), ("adam", 0.0), ("adamw", 0.0)]
)
def test_schedules_move_the_rate_alone(optimizer, momentum, schedule):
    """SGD keeps the momentum that is asked for, and Adam its usual beta 1, in every step."""
    from robustsuite.training.descent import make_optimizer
    from robustsuite.training.schedules import RateSchedule

    settings = Training(optimizer=optimizer, momentum=momentum, schedule=schedule)
    made = make_optimizer(torch.nn.Linear(2, 2), settings)
    steps = RateSchedule(made, settings, 10)
    used, rates = set(), []
    for _ in range(10):
        (group,) = made.param_groups
        used.add(group["momentum"] if optimizer == "sgd" else group["betas"])
        rates.append(group["lr"])
        made.step()
        steps.step()
    assert used == {momentum if optimizer == "sgd" else (0.9, 0.999)}
    assert max(rates) <= settings.lr * (1 + 1e-9)
    assert (len(set(rates)) == 1) is (schedule in ("constant", "plateau"))  # which is told of no score here


def test_momentum_changes_the_weights_under_one_cycle():
    told = [recipe(optimizer="sgd", lr=0.05, momentum=m, schedule="one-cycle", epochs=2) for m in (0.1, 0.5, 0.9)]
    found = [weights(fit(one, tiny_samples(160), 0)) for one in told]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(found, 2))


# --- The last batch


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [
        (1, 4, [1]),
        (1, 1, [1]),
        (2, 1, [1, 1]),
        (2, 4, [2]),
        (4, 4, [4]),
        (5, 4, [5]),
        (6, 4, [4, 2]),
        (9, 4, [4, 5]),
        (3, 2, [3]),
        (13, 3, [3, 3, 3, 4]),
    ],
)
def test_no_sample_is_left_over_alone(n, size, sizes):
    assert batch_sizes(n, size) == sizes
    assert sum(sizes) == n


@dataclasses.dataclass(frozen=True)
class Normed:
    """Batch normalisation over vectors, which no batch of one survives."""

    def __call__(self, classes, shape, bounds):
        width = shape[0] * shape[1] * shape[2]
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(width), nn.Linear(width, classes))


@pytest.mark.parametrize(("n", "validation"), [(33, 0.0), (65, 0.0), (37, 0.1), (34, 0.0), (2, 0.0)])
def test_a_last_batch_of_one_is_trained_with_the_one_before(n, validation):
    """33 = 32 + 1, 65 = 2 x 32 + 1, and 37 leave 33: torch refuses to normalise one sample."""
    chosen = dataclasses.replace(
        recipe(batch_size=32, validation=validation, epochs=2, normalise="none"), build=Normed()
    )
    fitted = fit(chosen, tiny_samples(n), 0)
    assert len(fitted.history) == 2
    assert all(map(math.isfinite, (row["train_loss"] for row in fitted.history)))


@pytest.mark.parametrize(("n", "size"), [(1, 32), (20, 1)])
def test_where_there_is_no_batch_to_join_it_is_refused_before_training(n, size):
    chosen = dataclasses.replace(recipe(batch_size=size, validation=0.0, normalise="none"), build=Normed())
    with pytest.raises(
        RequestError, match=r"Sequential raised in training on a batch of 1 .* another batch_size"
    ) as said:
        fit(chosen, tiny_samples(n), 0)
    assert "\n" not in str(said.value)
    plain = recipe(batch_size=size, validation=0.0, epochs=1)
    assert len(fit(plain, tiny_samples(n), 0).history) == 1  # without batch normalisation one sample is a batch


def test_an_empty_or_single_class_leaves_the_others_alone():
    samples = tiny_samples(240, 4)
    rare = samples.take(torch.cat([(samples.y != 3).nonzero()[:, 0], (samples.y == 3).nonzero()[:1, 0]]).sort().values)
    for train in (rare, rare.take(rare.y != 3)):
        chosen = recipe(class_weights="balanced", label_smoothing=0.1, validation=0.0, epochs=12)
        network = fit(chosen, train, 0).network
        test = samples.take(samples.y != 3)
        assert float((network(test.inputs()).argmax(1) == test.y).float().mean()) > 0.9
