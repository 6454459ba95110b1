"""Augmentation by the settings: what is done to each sample, by whose draws, and who refuses it."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from robustsuite.attacks.evasion.pgd import PGD
from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.samples import Batch
from robustsuite.core.streams import Streams
from robustsuite.defenses.adversarial_training import AdversarialLoss
from robustsuite.plugins import defense
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_recipe
from robustsuite.training.augment import Crop, CutMix, Flip, Mixup, augmentations, beta
from robustsuite.training.fit import fit
from robustsuite.training.parts import CleanLoss, Step, training_loss
from robustsuite.training.settings import Training

STREAMS = Streams(3)


def batch_of(n, shape=(2, 6, 5), first=0):
    ids = torch.arange(first, first + n)
    return Batch(Streams(1).uniform(ids, shape), ids % 4, ids)


def recipe(*names, **settings):
    plain = tiny_recipe()
    return replace(plain, training=plain.training.override({"epochs": 1, "augment": names, **settings}))


@pytest.mark.parametrize(("fill", "mode"), [("reflect", "reflect"), ("zeros", "constant")])
def test_a_crop_is_a_window_of_the_padded_image_at_a_place_of_its_own(fill, mode):
    batch = batch_of(300)
    made = Crop(padding=2, fill=fill)(batch, STREAMS)
    padded, places = F.pad(batch.x, (2, 2, 2, 2), mode=mode), []
    for image, whole in zip(made.x, padded, strict=True):
        at = [(i, j) for i in range(5) for j in range(5) if torch.equal(image, whole[:, i : i + 6, j : j + 5])]
        places += at[:1]
    assert len(places) == 300
    counts = torch.tensor([places.count((i, j)) for i in range(5) for j in range(5)])
    assert stats.chisquare(counts).pvalue > 1e-3
    assert torch.equal(made.y, batch.y)
    assert made.partner is made.share is None


@pytest.mark.parametrize("change", [Crop(padding=2), Flip()])
def test_draws_are_by_id_whatever_else_is_in_the_batch(change):
    whole, some = batch_of(64), torch.tensor([50, 3, 17])
    part = Batch(whole.x[some], whole.y[some], whole.ids[some])
    assert torch.equal(change(part, STREAMS).x, change(whole, STREAMS).x[some])
    assert not torch.equal(change(whole, STREAMS.child("epoch")).x, change(whole, STREAMS).x)


def test_a_flip_mirrors_half_of_the_images():
    batch = batch_of(400)
    made = Flip()(batch, STREAMS).x
    flipped = (made == batch.x.flip(-1)).flatten(1).all(1)
    assert bool((flipped | (made == batch.x).flatten(1).all(1)).all())
    assert stats.binomtest(int(flipped.sum()), 400, 0.5).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 4.0])
def test_own_shares_follow_the_beta_distribution(alpha):
    drawn = beta(torch.arange(4000), alpha, STREAMS)
    assert stats.kstest(drawn.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_mixup_takes_the_mean_of_two_and_the_loss_the_mean_of_both_labels():
    batch = batch_of(50, (7,))
    made = Mixup(alpha=1.0)(batch, STREAMS)
    for row in range(50):
        others = batch.x[(torch.arange(50) != row) & (batch.y == made.partner[row])]
        expected = made.share[row] * batch.x[row] + (1 - made.share[row]) * others
        assert (expected - made.x[row]).abs().amax(1).min() < 1e-6
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    samples = tiny_samples(40)
    step = Step(training_loss(Training(), samples), STREAMS, (0.0, 1.0))
    soft = made.share[:, None] * F.one_hot(batch.y, 4) + (1 - made.share[:, None]) * F.one_hot(made.partner, 4)
    assert torch.allclose(step.losses(logits, made), F.cross_entropy(logits, soft, reduction="none"), atol=1e-6)
    assert torch.equal(step.losses(logits, batch), step.loss(logits, batch.y))


def test_cutmix_pastes_one_rectangle_and_its_area_is_the_share():
    """Images of one value each, so that what was pasted shows."""
    ids = torch.arange(200)
    batch = Batch((ids + 1.0)[:, None, None, None].expand(200, 1, 12, 9), ids % 4, ids)
    made = CutMix()(batch, STREAMS)
    shares = []
    for row, image in enumerate(made.x[:, 0]):
        pasted = image != row + 1
        assert len(image[pasted].unique()) <= 1
        assert made.share[row] == pytest.approx(1 - float(pasted.float().mean()))
        if pasted.any():
            rows, columns = pasted.nonzero().T
            height, width = (int(side.max() - side.min()) + 1 for side in (rows, columns))
            assert int(pasted.sum()) == height * width
            assert made.partner[row] == (int(image[pasted][0]) - 1) % 4
        shares.append(float(made.share[row]))
    assert 0.5 < sum(shares) / 200 < 0.75  # 1/2 where no rectangle reached over the edge
    assert min(shares) < 0.2
    assert max(shares) > 0.95


@pytest.mark.parametrize("names", [({"crop": {"padding": 1}}, "flip"), ("mixup",), ({"cutmix": {"alpha": 0.5}},)])
def test_a_training_with_augmentation_differs_learns_and_repeats(names):
    samples = tiny_samples(120)
    one, other = (fit(recipe(*names, epochs=6), samples, 0) for _ in range(2))
    plain = fit(recipe(epochs=6), samples, 0)
    assert torch.equal(one.network.head.weight, other.network.head.weight)
    assert not torch.equal(one.network.head.weight, plain.network.head.weight)
    assert one.history[-1]["validation_accuracy"] > 0.4


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("flop",), "one of crop, flip, mixup, cutmix, got augment='flop'; did you mean 'flip'"),
        (({"crop": {"pad": 2}},), "an option of crop, got augment.crop.pad=2; crop takes padding, fill"),
        (({"crop": {"padding": 0}},), "got padding=0"),
        (({"mixup": {"alpha": 0}},), "got alpha=0"),
        (("mixup", "cutmix"), "mixup or cutmix"),
        (("flip", "flip"), "each augmentation once"),
        (({"crop": 3},), r"a mapping of options, got augment.crop=3"),
    ],
)
def test_what_cannot_be_augmented_by_is_shown(wrong, told):
    with pytest.raises(RequestError, match=told):
        Training(augment=wrong)


@pytest.mark.parametrize("name", ["crop", "flip", "cutmix"])
def test_feature_vectors_are_refused(name):
    with pytest.raises(RequestError, match=rf"images .* got augment='{name}'"):
        augmentations([name])[0].refuse((30,))
    with pytest.raises(RequestError, match="a padding below 3"):
        Crop().refuse((1, 3, 9))
    Crop(fill="zeros").refuse((1, 3, 9))


def test_mixed_samples_are_refused_by_who_knows_one_label():
    attack = PGD(steps=1)
    objective = AdversarialLoss(attack=attack, monitor=attack, ball=Ball("linf", 0.1))
    with pytest.raises(RequestError, match=r"AdversarialLoss, which knows one label .* augment='cutmix'"):
        recipe("flip", "cutmix").with_objective(objective)
    recipe("flip").with_objective(objective)
    assert CleanLoss.blends


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_private_training_refuses_what_mixes_and_takes_what_does_not(name):
    private = defense("dp-sgd", noise_multiplier=1.0, delta=1e-3)
    with pytest.raises(RequestError, match=rf"each example alone under dp-sgd, got augment='{name}'"):
        private(recipe(name))
    fitted = fit(private(recipe("flip", "crop", ema=0.5, lr=1e-3)), tiny_samples(60), 0)
    assert fitted.facts["epsilon_valid"]
    assert math.isfinite(fitted.history[0]["train_loss"])
