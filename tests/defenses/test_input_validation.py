"""Input validation: what is rejected, how often by mistake, and that a batch never changes a decision."""

import dataclasses
import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from robustsuite.access.white_box import WhiteBox
from robustsuite.attacks.evasion.pgd import PGD
from robustsuite.core.ball import Ball
from robustsuite.core.deployed import Deployed, Outputs, Served
from robustsuite.core.errors import NotApplicableError, RequestError
from robustsuite.core.isolation import untouched
from robustsuite.core.samples import Samples
from robustsuite.core.streams import Streams
from robustsuite.defenses.detectors import FeatureDistance, FeatureSqueezing, fewer_levels, median_filtered
from robustsuite.defenses.input_validation import DETECTORS, InputValidation, Validation, joint_thresholds
from robustsuite.testing import tiny_network, tiny_samples
from robustsuite.testing.victims import tiny_context, tiny_parts, tiny_recipe
from robustsuite.training.cache import Trainer

CALIBRATION = tiny_samples(200, first=5_000)


def deployed(network=None, calibration=CALIBRATION, inner=None, **options):
    inner = Served(network if network is not None else tiny_network()) if inner is None else inner
    return Validation(rules=InputValidation(**options))(inner, tiny_context(calibration=calibration))


def ask(model, x):
    with torch.no_grad():
        return model(x)


# --- malformed inputs ---


def test_malformed_rows_are_rejected_one_by_one():
    model = deployed(detectors=("range",))
    x = tiny_samples(8, first=20_000).x.clone()
    x[1, 0, 0, 0] = float("nan")
    x[2, 0, 3, 3] = float("inf")
    x[3, 0, 0, 0] = -float("inf")
    x[4, 0, 0, 0] = 1.01
    x[5, 0, 0, 0] = -0.01
    x[6, 0, 0, 0] = 1.0
    answer = ask(model, x)
    assert answer.rejected.tolist() == [False, True, True, True, True, True, False, False]
    assert answer.logits.isfinite().all()
    assert (answer.logits[1:6] == 0).all()
    kept = torch.tensor([0, 6, 7])
    assert torch.allclose(answer.logits[kept], tiny_network()(x[kept]), atol=1e-5)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(3, 1, 8, 9),
        torch.zeros(3, 64),
        torch.zeros(3, 1, 8, 8, dtype=torch.uint8),
        torch.zeros(3, 1, 8, 8, dtype=torch.float64),
        torch.zeros(3, 1, 8, 8, dtype=torch.bool),
    ],
    ids=["shape", "flat", "uint8", "float64", "bool"],
)
def test_another_shape_or_dtype_is_rejected_and_answered(x):
    answer = ask(deployed(), x)
    assert answer.rejected.all()
    assert answer.logits.shape == (3, 4)
    assert answer.logits.dtype == torch.float32


def test_rounding_at_the_bounds_is_forgiven():
    x = torch.full((1, 1, 8, 8), 1.0) + 1e-7
    assert not ask(deployed(detectors=("range",)), x).rejected.any()


def test_dtype_is_the_models():
    model = deployed(tiny_network().to(torch.float32))
    double = torch.nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
    assert ask(model, CALIBRATION.x).logits.dtype == torch.float32
    answer = ask(deployed(double), CALIBRATION.x.double())
    assert answer.logits.dtype == torch.float64
    assert answer.rejected.float().mean() < 0.15


# --- false alarms ---


@pytest.mark.parametrize(
    "detectors", [("feature-distance",), ("feature-squeezing",), ("range", "feature-distance", "feature-squeezing")]
)
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_fresh_inputs_are_rejected_at_the_asked_rate(detectors, rate):
    """Over several calibration sets, since each has a rate of its own: a beta with deviation sqrt(r (1 - r) / M)."""
    fresh = tiny_samples(600, first=30_000).x
    rates = []
    for part in range(4):
        model = deployed(
            calibration=tiny_samples(200, first=40_000 + 1000 * part), detectors=detectors, false_alarm_rate=rate
        )
        rates.append(float(ask(model, fresh).rejected.float().mean()))
    assert sum(rates) / 4 == pytest.approx(rate, abs=3.5 * (rate * (1 - rate) / 200) ** 0.5 / 2 + 0.01)


def test_each_detector_gets_the_same_share_of_calibration_alarms():
    generator = torch.Generator().manual_seed(0)
    scores = {"a": torch.rand(999, generator=generator), "b": 100 * torch.rand(999, generator=generator)}
    cuts = joint_thresholds(scores, 0.1)
    alarms = {name: scores[name] > cuts[name] for name in scores}
    assert int((alarms["a"] | alarms["b"]).sum()) <= 99
    assert int((alarms["a"] | alarms["b"]).sum()) >= 95
    assert int(alarms["a"].sum()) == int(alarms["b"].sum())


def test_one_detector_cuts_at_the_conformal_rank():
    scores = torch.arange(19.0)
    assert joint_thresholds({"a": scores}, 0.05) == {"a": 18.0}
    assert joint_thresholds({"a": torch.arange(99.0)}, 0.05) == {"a": 94.0}
    assert joint_thresholds({"a": torch.arange(18.0)}, 0.05) == {"a": math.inf}


def test_too_few_calibration_samples_are_refused():
    """k detectors at a rate r need k / r - 1: with fewer, each could not have one alarm of its own among M + 1."""
    for detectors, needed in ((DETECTORS, 39), (("feature-squeezing",), 19), (("range", "feature-distance"), 19)):
        refused = rf"at least {needed} samples .* calibration={needed - 1}"
        with pytest.raises(RequestError, match=refused):
            deployed(calibration=tiny_samples(needed - 1), detectors=detectors)
        deployed(calibration=tiny_samples(needed), detectors=detectors)
    deployed(calibration=tiny_samples(2), detectors=("range",))


# --- what the detectors find ---


def test_far_inputs_are_rejected():
    model = deployed(false_alarm_rate=0.05)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(200, 1, 8, 8, generator=generator).round()
    assert ask(model, noise).rejected.float().mean() > 0.9


def test_adversarial_inputs_are_rejected_far_more_often_than_clean_ones():
    """Handwritten digits: small steps that fool the network leave its answer fragile under squeezing."""
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    train, test = Samples(x[:1200], y[:1200], 10), Samples(x[1200:], y[1200:], 10)
    recipe = dataclasses.replace(tiny_recipe(), training=tiny_recipe().training.override({"epochs": 4}))
    train, calibration = train.take(slice(0, 1080)), train.take(slice(1080, None))
    trainer = Trainer(0, part={"calibration": calibration}.get)
    model = trainer(InputValidation(detectors=("feature-squeezing",))(recipe), train).model
    with untouched(model.network):
        view = WhiteBox(test.x, test.y, test.ids, Ball("linf", 0.1, (0.0, 1.0)), 10, model=model.network)
        moved = PGD(steps=10)(view, Streams(0))
    answer, clean = ask(model, moved), ask(model, test.x).rejected.float().mean()
    fooled = answer.logits.argmax(1) != test.y
    caught = answer.rejected[fooled].float().mean()
    assert fooled.float().mean() > 0.2
    assert clean < 0.12
    assert caught > 0.2
    assert caught > 3 * clean


def test_squeezers_that_change_ordinary_predictions_are_not_chosen():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    with torch.no_grad():  # the class is whether the first pixel is above 0.6, so one bit would confuse 0.55 with it
        network[1].weight.zero_()
        network[1].weight[1, 0], network[1].weight[1, 15] = 10.0, -6.0
    x = torch.zeros(100, 1, 4, 4)
    x[:, 0, 3, 3] = 1.0
    x[:50, 0, 0, 0], x[50:, 0, 0, 0] = 0.55, 0.9
    detector = FeatureSqueezing(network, (0.0, 1.0), None, None)
    with torch.no_grad():
        detector.calibrate(x)
    assert detector.bits == 3  # 1 bit: 1.0, 2 bits: 0.667, 3 bits: 0.571
    assert detector.window == 1  # the median would wipe the single pixels out
    forced = FeatureSqueezing(network, (0.0, 1.0), 1, 2)
    with torch.no_grad():
        forced.calibrate(x)
    assert (forced.bits, forced.window) == (1, 2)


def test_feature_distance_is_the_kth_neighbour_of_the_last_hidden_layer():
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(2))
    known = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    detector = FeatureDistance(network, 2)
    with torch.no_grad():
        own = detector.calibrate(known)
        scores = detector.scores(torch.tensor([[0.0, 0.0], [9.0, 0.0]]))
    scaled = known / known.std(0)
    gaps = torch.cdist(scaled, scaled)
    assert torch.allclose(own, gaps.sort(1).values[:, 2])
    assert torch.allclose(scores[0], gaps[0].sort().values[1])
    assert scores[1] > own.max()


def test_feature_distance_falls_back_to_logits():
    network = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())
    with torch.no_grad():
        scores = FeatureDistance(network, 3).calibrate(CALIBRATION.x)
    assert scores.shape == (200,)
    assert scores.isfinite().all()


def test_squeezing_score_is_the_greatest_l1_distance():
    network = tiny_network()
    x = tiny_samples(5).x
    with torch.no_grad():
        found = FeatureSqueezing(network, (0.0, 1.0), 3, 2).scores(x)
        p = network(x).softmax(1)
        moved = [network(z).softmax(1) for z in (fewer_levels(x, (0.0, 1.0), 3), median_filtered(x, 2))]
    assert torch.allclose(found, torch.stack([(p - q).abs().sum(1) for q in moved]).amax(0))
    assert (found <= 2).all()


@pytest.mark.parametrize("window", [2, 3])
def test_median_filter_is_scipys(window):
    from scipy.ndimage import median_filter

    images = torch.rand(4, 3, 7, 6, generator=torch.Generator().manual_seed(0))
    expected = median_filter(images.numpy(), size=(1, 1, window, window), mode="nearest")
    assert torch.equal(median_filtered(images, window), torch.from_numpy(expected))
    assert torch.equal(median_filtered(images[:, 0], window), torch.from_numpy(expected[:, 0]))


def test_levels_span_the_bounds():
    x = torch.tensor([-1.0, -0.4, 0.1, 1.0])
    assert fewer_levels(x, (-1.0, 1.0), 1).tolist() == [-1.0, -1.0, 1.0, 1.0]
    assert torch.allclose(fewer_levels(x, (-1.0, 1.0), 2), torch.tensor([-1.0, -1 / 3, 1 / 3, 1.0]))


def test_vectors_are_squeezed_without_a_median():
    network = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    flat = Samples(CALIBRATION.x.flatten(1), CALIBRATION.y, 4)
    answer = ask(deployed(network, calibration=flat), flat.x)
    assert answer.rejected.float().mean() <= 0.1


# --- the deployed model ---


def test_a_batch_never_changes_a_decision():
    model = deployed(false_alarm_rate=0.2)
    x = torch.cat([tiny_samples(40, first=60_000).x, torch.rand(20, 1, 8, 8), torch.full((1, 1, 8, 8), 2.0)])
    whole = ask(model, x)
    assert 0 < int(whole.rejected.sum()) < 61
    for size in (1, 7):
        parts = [ask(model, part) for part in x.split(size)]
        assert torch.equal(torch.cat([p.rejected for p in parts]), whole.rejected)
    order = torch.randperm(61)
    assert torch.equal(ask(model, x[order]).rejected, whole.rejected[order])
    assert torch.equal(ask(model, x).rejected, whole.rejected)


class Refuses(Deployed):
    """Rejects bright inputs."""

    random = True

    @property
    def network(self):
        return tiny_network()

    def __call__(self, x):
        return Outputs(self.network(x), x.flatten(1).mean(1) > 0.52)


def test_wrappers_stack():
    x = tiny_samples(60, first=70_000).x.clone()
    x[0, 0, 0, 0] = 2.0
    inner = Refuses()
    model = deployed(inner=inner, detectors=("range",))
    assert model.random
    assert not model.fully_differentiable
    assert model.network is model.surrogate() is tiny_network()
    assert torch.equal(ask(model, x).rejected, ask(inner, x).rejected | (torch.arange(60) == 0))
    again = deployed(inner=model, detectors=("feature-distance",), false_alarm_rate=0.3)
    assert (ask(again, x).rejected | ~ask(model, x).rejected).all()
    assert ask(again, x).rejected.sum() > ask(model, x).rejected.sum()


def test_calibration_leaves_the_network_as_it_was():
    network = tiny_network()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    ask(deployed(network), CALIBRATION.x)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in network.modules())


def test_the_calibration_part_calibrates_it():
    defended, part = InputValidation(false_alarm_rate=0.1)(tiny_recipe()), tiny_parts()
    trained = Trainer(0, part=part)(defended, tiny_samples(320))
    assert ask(trained.model, part("calibration").x).rejected.float().mean() <= 0.1
    assert defended.training_key() == tiny_recipe().training_key()
    assert defended.serves_with == ("calibration",)
    assert InputValidation(detectors=("range",))(tiny_recipe()).serves_with == ()


def test_after_a_repair_false_alarms_are_as_rare_as_asked_for():
    """A repair that tunes on what detectors are calibrated on would make their scores look smaller than they are."""

    class Tunes:
        needs = ("trusted",)

        def __call__(self, network, context):
            clean = context.part("trusted")
            descent = torch.optim.Adam(network.train().parameters(), lr=1e-2)
            for _ in range(60):
                descent.zero_grad()
                nn.functional.cross_entropy(network(clean.x), clean.y).backward()
                descent.step()
            return network

    recipe = InputValidation(false_alarm_rate=0.1)(tiny_recipe().with_repair(Tunes()))
    rates = []
    for seed in range(4):
        clean = {
            name: tiny_samples(160, first=10_000 * (2 * seed + n)) for n, name in ((3, "trusted"), (4, "calibration"))
        }
        trained = Trainer(seed, part=clean.get)(recipe, tiny_samples(320))
        rates.append(float(ask(trained.model, tiny_samples(2000, first=200_000).x).rejected.float().mean()))
    spread = math.sqrt(0.1 * 0.9 * (1 / 2000 + 1 / (4 * 160)))
    assert sum(rates) / 4 <= 0.1 + 2 * spread


def test_an_empty_calibration_part_says_so():
    with pytest.raises(
        NotApplicableError, match=r"empty part calibration of the data set, which input-validation needs"
    ):
        Trainer(0)(InputValidation()(tiny_recipe()), tiny_samples(40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detectors": ("rnage",)}, "did you mean 'range'"),
        ({"detectors": ()}, "expected distinct detectors"),
        ({"detectors": ("range", "range")}, "expected distinct detectors"),
        ({"false_alarm_rate": 0.0}, "false_alarm_rate=0.0"),
        ({"neighbours": 0}, "neighbours=0"),
        ({"bit_depth": 9}, "bit_depth=9"),
        ({"median_window": 0}, "median_window=0"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(RequestError, match=message):
        InputValidation(**options)
