"""Losses and attacks of each member in closed form: TRADES, MART, N-FGSM, noise and unions of balls."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from adversarial_recipes import BALL, Passes, brief, flat_linear, objective_of, recipe_of, step_of

from robustsuite.core.ball import Ball
from robustsuite.core.errors import RequestError
from robustsuite.core.samples import Samples
from robustsuite.defenses.mart import boosted
from robustsuite.defenses.trades import divergence
from robustsuite.testing import tiny_samples
from robustsuite.training.fit import fit

WIDE = Ball("linf", 0.07)


def linear_samples(n=9, width=6, bounds=(-10.0, 10.0)):
    torch.manual_seed(3)
    return Samples(torch.rand(n, width, dtype=torch.float64), torch.randint(0, 2, (n,)), 2, bounds)


def test_trades_on_a_linear_model_is_the_closed_form():
    """The divergence of two Bernoulli answers is convex in the margin: greatest at one of the ends of m +- r |w|_1."""
    network, samples = flat_linear(6, 2), linear_samples()
    loss = objective_of("trades", WIDE, beta=2.5, attack={"pgd": {"steps": 20, "restarts": 4}})
    found = loss(network, samples.batch(slice(None)), step_of(samples))
    logits, w = network(samples.x), network.weight
    margin, reach = logits[:, 1] - logits[:, 0], 0.07 * (w[1] - w[0]).abs().sum()

    def kl(a, b):
        p, q = a.sigmoid(), b.sigmoid()
        return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()

    ends = torch.stack([kl(margin, margin + reach), kl(margin, margin - reach)])
    wanted = F.cross_entropy(logits, samples.y, reduction="none") + 2.5 * ends
    assert torch.allclose((found - wanted).abs().amin(0), torch.zeros(9).double(), atol=1e-9)
    assert int((found >= wanted.amax(0) - 1e-9).sum()) >= 7  # a climb from one side ends there, so chance has a say


def test_the_divergence_is_from_the_clean_answer():
    clean, hard = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    assert float(divergence(clean, hard)) == pytest.approx(0.5108256, abs=1e-6)  # log(.5 / .3), as .9 * .1 = .3 ** 2
    assert float(divergence(hard, clean)) == pytest.approx(0.3680642, abs=1e-6)
    assert float(divergence(clean, clean)) == 0


def test_mart_by_hand():
    """p(x) = (.6, .3, .1), p(x') = (.4, .5, .1), y = 0."""
    logits = {0.0: torch.tensor([0.6, 0.3, 0.1]).log(), 1.0: torch.tensor([0.4, 0.5, 0.1]).log()}

    class Two(torch.nn.Module):
        def forward(self, x):
            return torch.stack([logits[float(v)] for v in x[:, 0]])

    samples = Samples(torch.zeros(1, 1), torch.tensor([0]), 3)
    loss = objective_of("mart", BALL, weight=5.0)
    found = loss.loss(Two(), samples.batch(slice(None)), torch.ones(1, 1), step_of(samples))
    p, q = logits[0.0].exp(), logits[1.0].exp()
    wanted = -q[0].log() - (1 - q[1]).log() + 5.0 * (1 - p[0]) * (p * (p / q).log()).sum()
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_the_margin_of_mart_stays_finite_where_answers_saturate():
    logits = torch.tensor([[0.0, 80.0, 0.0], [80.0, 0.0, 0.0]], requires_grad=True)
    found = boosted(logits, torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([80.0 - torch.tensor(2.0).log().item(), 0.0], abs=1e-5)
    assert bool(torch.autograd.grad(found.sum(), logits)[0].isfinite().all())


@pytest.mark.parametrize("name", ["trades", "mart"])
def test_running_statistics_follow_the_clean_pass_and_then_the_adversarial_one(name):
    samples, network = tiny_samples(16), Passes()
    objective_of(name)(network.train(), samples.batch(slice(None)), step_of(samples))
    learnt = [x for training, x in network.seen if training]
    assert len(learnt) == 2
    assert torch.equal(learnt[0], samples.x)
    first, second = (network.features[0](x * 2 - 1).mean((0, 2, 3)) for x in learnt)
    norm = network.features[1]
    assert torch.allclose(norm.running_mean, 0.9 * 0.1 * first + 0.1 * second, atol=1e-6)
    assert int(norm.num_batches_tracked) == 2


@pytest.mark.parametrize(
    ("name", "options", "forward", "backward"),
    [
        ("adversarial-training", {}, 12, 11),
        ("adversarial-training", {"attack": "fgsm-rs"}, 2, 2),
        ("adversarial-training", {"attack": "n-fgsm"}, 2, 2),
        ("trades", {}, 14, 12),
        ("mart", {}, 13, 12),
        ("noise-training", {}, 1, 1),
        ("free-training", {"replays": 2}, 1, 1),
    ],
)
def test_the_record_says_what_it_costs(name, options, forward, backward):
    """Counted while it trains, validation apart."""
    facts = fit(brief(recipe_of(name, **options), epochs=1), tiny_samples(70), 0).facts
    assert facts["passes"] == {"forward": forward, "backward": backward, "multiple": (forward + backward) / 2}


def test_plain_training_counts_nothing():
    plain = recipe_of("input-validation")
    assert "passes" not in fit(brief(dataclasses.replace(plain, serve=()), epochs=1), tiny_samples(64), 0).facts


def test_a_noisy_step_starts_two_radii_out_and_is_not_projected():
    network, samples = flat_linear(6, 2), linear_samples(n=60)
    loss = objective_of("adversarial-training", WIDE, attack="n-fgsm")
    (moved,) = loss.found(network, samples.batch(slice(None)), step_of(samples))
    away = torch.where(
        samples.y[:, None] == 1, network.weight[0] - network.weight[1], network.weight[1] - network.weight[0]
    )
    noise = moved - samples.x - 0.07 * away.sign()
    assert float(noise.abs().max()) <= 0.14 + 1e-9
    assert 0.4 < float((noise.abs() > 0.07).double().mean()) < 0.6
    assert float((moved - samples.x).abs().max()) > 0.2


def test_a_noisy_step_is_cut_to_the_input_bounds():
    samples = tiny_samples(16)
    loss = objective_of("adversarial-training", Ball("linf", 0.5), attack="n-fgsm")
    (moved,) = loss.found(Passes(), samples.batch(slice(None)), step_of(samples))
    assert (float(moved.min()), float(moved.max())) == (0.0, 1.0)


def test_noise_is_within_the_ball_or_gaussian_and_keyed_by_sample():
    samples = tiny_samples(64)
    batch, step = samples.batch(slice(None)), step_of(samples)
    uniform = objective_of("noise-training").noisy(batch, step)
    assert float((uniform - batch.x).abs().max()) <= 0.1
    assert float((uniform - batch.x).std()) == pytest.approx(0.1 / 3**0.5, rel=0.05)
    gaussian = objective_of("noise-training", None, sigma=0.05).noisy(batch, step)
    assert float((gaussian - batch.x).std()) == pytest.approx(0.05, rel=0.05)
    half = samples.batch(slice(32, 64))
    assert torch.equal(objective_of("noise-training").noisy(half, step), uniform[32:])
    wild = objective_of("noise-training", None, sigma=3.0).noisy(batch, step)
    assert (float(wild.min()), float(wild.max())) == (0.0, 1.0)


@pytest.mark.parametrize(("radius", "wins"), [(2.0, "l2"), (0.01, "linf")])
def test_a_union_learns_the_worst_of_its_balls_or_their_mean(radius, wins):
    """On a linear model the margin falls by r times the dual norm of the gap between the classes' weights."""
    network, samples = flat_linear(6, 2), linear_samples()
    balls = [{"norm": "linf", "radius": 0.07}, {"norm": "l2", "radius": radius}]
    logits, gap = network(samples.x), network.weight[1] - network.weight[0]
    margin = (logits[:, 1] - logits[:, 0]) * (2 * samples.y - 1)
    reach = {"linf": 0.07 * gap.abs().sum(), "l2": radius * gap.norm()}
    losses = {norm: F.softplus(by - margin) for norm, by in reach.items()}
    for union, wanted in (("max", losses[wins]), ("average", (losses["linf"] + losses["l2"]) / 2)):
        loss = objective_of("adversarial-training", None, attack="fgsm", balls=balls, union=union)
        found = loss(network, samples.batch(slice(None)), step_of(samples))
        assert torch.allclose(found, wanted, atol=1e-6)


def test_the_worst_ball_is_chosen_for_each_sample():
    samples, network = tiny_samples(60), Passes().eval()
    balls = [{"norm": "linf", "radius": 0.05}, {"norm": "l2", "radius": 0.35}]
    batch, step = samples.batch(slice(None)), step_of(samples)
    union = objective_of("adversarial-training", balls=balls)(network, batch, step)
    each = [objective_of("adversarial-training", **ball)(network, batch, step) for ball in balls]
    assert torch.allclose(union, torch.maximum(*each), atol=1e-6)
    assert 0 < int((each[0] > each[1]).sum()) < 60


def test_the_monitor_asks_for_robustness_in_every_ball():
    samples, network = tiny_samples(200), fit(recipe_of("noise-training"), tiny_samples(320), 0).network
    balls = [{"norm": "linf", "radius": 0.04}, {"norm": "l2", "radius": 0.3}]
    union = objective_of("trades", balls=balls).validate(network, samples, step_of(samples))["robust_accuracy"]
    each = [objective_of("trades", **b).validate(network, samples, step_of(samples))["robust_accuracy"] for b in balls]
    assert 0 < union <= min(each) < 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("trades", {"beta": 0.0}, "beta=0.0"),
        ("mart", {"weight": -1.0}, "weight=-1.0"),
        ("awp", {"gamma": 0.0}, "gamma=0.0"),
        ("free-training", {"replays": 0}, "replays=0"),
        ("noise-training", {"sigma": 0.1, "radius": 0.1}, "sigma, or norm and radius"),
        ("noise-training", {"sigma": -1.0}, "sigma=-1.0"),
        ("trades", {"union": "min"}, "union='min'"),
        ("trades", {"balls": [{"norm": "l2", "radius": 1.0}]}, "several balls, or one"),
        ("trades", {"balls": [{"norm": "l2"}, {"norm": "l1", "radius": 1.0}]}, "balls={'norm': 'l2'}"),
        ("mart", {"balls": [{"norm": "l2", "radius": 1.0}] * 2, "norm": "l2"}, "several balls, or one"),
        ("mart", {"balls": [{"norm": "l3", "radius": 1.0}] * 2}, "norm='l3'"),
    ],
)
def test_impossible_requests(name, options, message):
    with pytest.raises(RequestError, match=message):
        recipe_of(name, **options)


@pytest.mark.parametrize("name", ["trades", "mart", "noise-training", "free-training"])
def test_a_ball_is_needed(name):
    with pytest.raises(RequestError, match=f"set norm and radius of {name}"):
        recipe_of(name, None)
