"""What others build on: contexts, augmentation, wrapped updates, adversarial objectives, jobs."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from robustsuite.attacks.evasion.pgd import PGD
from robustsuite.core.ball import Ball
from robustsuite.core.errors import BudgetError, NotApplicableError, RequestError
from robustsuite.core.streams import Streams
from robustsuite.models.build import ModelSpec
from robustsuite.storage.store import Store
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_context, tiny_parts, tiny_recipe
from robustsuite.training import (
    AdversarialObjective,
    GradientDescent,
    Produced,
    Step,
    Trainer,
    TrainingBudget,
    Update,
    training_loss,
)
from robustsuite.training.fit import fit
from robustsuite.training.jobs import Job, repeat_seed

SAMPLES = tiny_samples(320)


def brief(**settings):
    recipe = tiny_recipe()
    return replace(recipe, training=recipe.training.override({"epochs": 2, **settings}))


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# --- stages ---


@dataclass(frozen=True)
class Drops:
    """Removes the samples of a class, and says which."""

    label: int = 0
    asked: ClassVar[list] = []

    def __call__(self, samples, context):
        self.asked.append(torch.is_grad_enabled())
        torch.rand(3, requires_grad=True).sum().backward()
        rows = samples.y != self.label
        drawn = context.streams.uniform(samples.ids, ())
        facts = {"removed": int((~rows).sum()), "drawn": float(torch.rand(()))}
        return Produced(samples.take(rows), facts, ("few-samples",), samples.ids, {"score": drawn})


def test_preparing_is_done_once_and_kept_with_what_it_says(tmp_path):
    Drops.asked.clear()
    recipe, trainer = brief().with_prepare(Drops()), Trainer(0, stores=(Store(tmp_path),))
    with torch.no_grad():
        trained, again = trainer(recipe, SAMPLES), trainer(recipe, SAMPLES)
    assert Drops.asked == [True]
    for one in (trained, again):
        (told,) = one.facts["prepare"]
        assert (told["is"], told["removed"], told["samples"], told["kept"]) == ("Drops", 80, 320, 240)
        assert told["drawn"] == trained.facts["prepare"][0]["drawn"]
        assert one.flags == ("few-samples",)
        assert torch.equal(one.scores["prepare 0 ids"], SAMPLES.ids)
        assert torch.equal(one.scores["prepare 0 score"], trained.scores["prepare 0 score"])
    assert same(trained.model.network, again.model.network)
    other = Trainer(1)(recipe, SAMPLES).scores["prepare 0 score"]
    assert not torch.equal(other, trained.scores["prepare 0 score"])


@dataclass(frozen=True)
class Draws:
    """Changes nothing, tells what it drew, and doubts."""

    doubt: str

    def __call__(self, value, context):
        return Produced(value, {"drawn": float(context.streams.uniform(torch.tensor([0]), ()))}, (self.doubt,))


def test_each_stage_draws_from_streams_of_its_own_and_every_doubt_is_kept():
    recipe = brief(epochs=1).with_prepare(Draws("first")).with_prepare(Draws("second"))
    recipe = recipe.with_repair(Draws("third")).with_serve(Draws("fourth")).with_serve(Draws("fifth"))
    trained = Trainer(0)(recipe, SAMPLES)
    assert trained.flags == ("first", "second", "third", "fourth", "fifth")
    told = [trained.facts[stage] for stage in ("prepare", "repair", "serve")]
    assert [len(facts) for facts in told] == [2, 1, 2]
    assert len({part["drawn"] for facts in told for part in facts}) == 5


@dataclass(frozen=True)
class Asks:
    """Trains networks while it repairs."""

    needs = ("trusted",)

    def __call__(self, network, context):
        kept = [context.train(context.part("trusted")) for _ in range(2)]
        settings = tiny_recipe().training.override({"epochs": 1})
        kept.append(context.train(context.part("trusted"), training=settings))
        self.made.append(kept)
        return network

    made: ClassVar[list] = []


def test_a_stage_may_train_networks_of_its_own_seeds_once(tmp_path):
    Asks.made.clear()
    trainer = Trainer(0, stores=(Store(tmp_path),), part=tiny_parts())
    trainer.fit(brief().with_repair(Asks()), SAMPLES)
    (tmp_path / "models").joinpath("none").mkdir(parents=True)
    one, two, three = Asks.made[0]
    assert not same(one, two)
    assert not same(two, three)
    assert not any(module.training for module in one.modules())
    assert len([*(tmp_path / "models").glob("*.json")]) == 4
    victim = Trainer(0).fit(brief(), tiny_parts()("trusted")).network
    assert not same(victim, one)


def test_only_declared_parts_are_shown_and_only_as_copies():
    part = {name: tiny_parts()(name) for name in ("trusted", "calibration")}

    @dataclass(frozen=True)
    class Reaches:
        needs = ("trusted",)

        def __call__(self, network, context):
            context.part("trusted").x.zero_()
            with pytest.raises(RequestError, match=r"needs = \('calibration',\)"):
                context.part("calibration")
            return network

    before = part["trusted"].copy()
    fit(brief(epochs=1).with_repair(Reaches()), SAMPLES, 0, part=part.get)
    assert torch.equal(part["trusted"].x, before.x)
    with pytest.raises(
        NotApplicableError, match="out of every poisoner's reach, for repairs, got an empty part trusted"
    ):
        fit(brief(epochs=1).with_repair(Reaches()), SAMPLES, 0)


def test_a_stage_that_returns_something_else_is_named():
    with pytest.raises(RequestError, match="Wrong returned NoneType"):
        fit(brief().with_prepare(type("Wrong", (), {"__call__": lambda *_: None})()), SAMPLES, 0)
    with pytest.raises(RequestError, match="one score per id"):
        Produced(1, ids=torch.arange(3), scores={"a": torch.zeros(2)})


def test_another_trusted_part_is_another_training():
    recipe = brief().with_repair(Asks())
    keys = {Trainer(0, part={"trusted": tiny_samples(n)}.get).key(recipe, SAMPLES) for n in (40, 80)}
    assert len(keys) == 2
    assert len({Trainer(0, part={"trusted": tiny_samples(n)}.get).key(brief(), SAMPLES) for n in (40, 80)}) == 1


# --- batches ---


@dataclass(frozen=True)
class Jitters:
    """Shifts every sample by a draw of its own."""

    def __call__(self, batch, streams):
        return batch._replace(x=(batch.x + 0.1 * streams.uniform(batch.ids, (1, 1, 1))).clamp(0, 1))


def test_augmentation_changes_every_batch_and_no_validation():
    plain, moved = fit(brief(epochs=1), SAMPLES, 0), fit(brief(epochs=1).with_augment(Jitters()), SAMPLES, 0)
    assert plain.history[0]["train_loss"] != moved.history[0]["train_loss"]
    still = replace(brief(epochs=1, lr=1e-30, normalise="none"), build=ModelSpec(name="mlp"))
    figures = [fit(r, SAMPLES, 0).history[0]["validation_loss"] for r in (still, still.with_augment(Jitters()))]
    assert figures[0] == figures[1]
    with pytest.raises(RequestError, match="expected a batch of the same samples, got Halves returned 16 of 32"):
        fit(
            brief().with_augment(
                type("Halves", (), {"__call__": lambda self, b, s: type(b)(*(c[:16] for c in b[:3]))})()
            ),
            SAMPLES,
            0,
        )


# --- updates ---


@dataclass(frozen=True)
class Averaged(Update):
    """An exponential average of the weights, which is what is validated and kept."""

    inner: Update
    decay: float = 0.9

    def start(self, network, samples, training, streams, fabric):
        return Averaging(self.inner.start(network, samples, training, streams, fabric), self.decay)


class Averaging:
    def __init__(self, inner, decay):
        self.inner, self.decay, self.network = inner, decay, inner.network
        self.mean = copy.deepcopy(dict(inner.network.state_dict()))

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def step(self, losses):
        self.inner.step(losses)
        for name, value in self.network.state_dict().items():
            kept = self.mean[name]
            self.mean[name] = (
                self.decay * kept + (1 - self.decay) * value if value.is_floating_point() else value.clone()
            )

    def watched(self):
        from contextlib import contextmanager

        @contextmanager
        def swapped():
            own = copy.deepcopy(dict(self.network.state_dict()))
            self.network.load_state_dict(self.mean)
            try:
                yield
            finally:
                self.network.load_state_dict(own)

        return swapped()


@pytest.mark.parametrize("keep_best", [True, False])
def test_an_update_can_be_wrapped(keep_best):
    """With a decay of 0 the average is the last weights; with one of 0.999 it hardly leaves the first."""
    plain = fit(brief(keep_best=keep_best), SAMPLES, 0).network
    made = {}
    for decay in (0.0, 0.999):
        recipe = brief(keep_best=keep_best).with_update_around(lambda inner, decay=decay: Averaged(inner, decay))
        assert isinstance(recipe.update.inner, GradientDescent)
        made[decay] = fit(recipe, SAMPLES, 0)
    assert same(plain, made[0.0].network)
    assert made[0.999].history[-1]["validation_loss"] > 1.5 * made[0.0].history[-1]["validation_loss"]


# --- adversarial objectives ---


@dataclass(frozen=True, kw_only=True)
class Trades(AdversarialObjective):
    """arXiv:1901.08573."""

    beta: float = 6.0

    def ascend(self, network, batch, step):
        with torch.no_grad():
            clean = network(batch.x).softmax(1)
        return lambda logits, rows: F.kl_div(logits.log_softmax(1), clean[rows], reduction="none").sum(1)

    def loss(self, network, batch, moved, step):
        clean = network(batch.x)
        apart = F.kl_div(network(moved).log_softmax(1), clean.softmax(1), reduction="none").sum(1)
        return step.loss(clean, batch.y) + self.beta * apart


@dataclass(frozen=True, kw_only=True)
class WeightPerturbed(AdversarialObjective):
    """arXiv:2004.05884, with one step of the weights."""

    gamma: float = 0.01

    def loss(self, network, batch, moved, step):
        weights = dict(network.named_parameters())
        slopes = torch.autograd.grad(step.loss(network(moved), batch.y).sum(), list(weights.values()))
        worse = {
            n: w + self.gamma * w.norm() * g / (g.norm() + 1e-12)
            for (n, w), g in zip(weights.items(), slopes, strict=True)
        }
        return step.loss(functional_call(network, worse, (moved,)), batch.y)


BALL, ATTACK = Ball("linf", 0.05), PGD(steps=5, step_size=0.4)


def robust(network):
    network.eval()
    test = tiny_samples(200, first=10_000)
    step = Step(training_loss(brief().training, test), Streams(5), (0.0, 1.0), 0, 4)
    objective = Trades(attack=PGD(steps=10, step_size=0.25), ball=BALL)
    moved = objective.perturbed(network, test.batch(slice(None)), step, 0.05, attack=PGD(steps=10, step_size=0.25))
    return float((network(moved).argmax(1) == test.y).float().mean())


@pytest.mark.parametrize("kind", [Trades, WeightPerturbed])
def test_trades_and_weight_perturbation_make_a_network_robust(kind):
    settings = {"epochs": 6}
    plain = robust(fit(brief(**settings), SAMPLES, 0).network)
    hardened = robust(fit(brief(**settings).with_objective(kind(attack=ATTACK, ball=BALL)), SAMPLES, 0).network)
    assert hardened > plain + 0.1


@dataclass(frozen=True, kw_only=True)
class First(AdversarialObjective):
    """Ascends the first logit, whatever the label."""

    def ascend(self, network, batch, step):
        return lambda logits, rows: logits[:, 0] * (1 + rows)

    def loss(self, network, batch, moved, step):
        return step.loss(network(moved), batch.y)


@pytest.mark.parametrize("attack", [PGD(steps=20), PGD(steps=20, loss="margin", restarts=2)])
def test_what_an_objective_ascends_is_what_any_attack_ascends(attack):
    """The first logit of a linear network is greatest at x + r sign(w), cut to the bounds."""
    torch.manual_seed(0)
    network, batch = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)), SAMPLES.batch(slice(0, 50))
    step = Step(training_loss(brief().training, SAMPLES), Streams(5), (0.0, 1.0), 0, 4)
    moved = First(attack=attack, ball=BALL).perturbed(network, batch, step, 0.05)
    slope = network[1].weight[0].sign().reshape(1, 1, 8, 8)
    assert torch.allclose(moved, (batch.x + 0.05 * slope).clamp(0, 1), atol=1e-6)
    own = First(attack=attack, ball=BALL).perturbed(network, batch, step, 0.05, attack=attack)
    assert not torch.allclose(own, moved, atol=1e-3)


# --- jobs ---


def test_only_a_twin_and_a_poisoned_victim_have_the_victims_seed():
    recipe = brief()
    seeds = {
        role: Job.of(role, recipe, SAMPLES, 3).seed for role in ("victim", "twin", "poisoned", "evaluator", "shadow")
    }
    assert seeds["victim"] == seeds["twin"] == seeds["poisoned"] == 3
    others = [seeds["evaluator"], seeds["shadow"], Job.of("shadow", recipe, SAMPLES, 3, 1).seed]
    assert len({3, *others}) == 4
    with pytest.raises(RequestError, match="did you mean 'shadow'"):
        Job.of("shadows", recipe, SAMPLES, 3)


def test_an_adversary_trains_within_its_budget(tmp_path):
    victim = Trainer(0, stores=(Store(tmp_path),))
    budget, again = TrainingBudget(victim, 0, 2), TrainingBudget(victim, 0, 2)
    one, two = budget(brief(), SAMPLES), budget(brief(), SAMPLES)
    assert (budget.used, budget.most) == (2, 2)
    assert not same(one, two)
    assert not same(one, victim.fit(brief(), SAMPLES).network)
    with pytest.raises(BudgetError, match="at most 2 trainings by the adversary"):
        budget(brief(), SAMPLES)
    repeated = again(brief(), SAMPLES)
    assert same(one, repeated)
    assert repeated is not one
    assert len([*(tmp_path / "models").glob("*.json")]) == 3


def test_seeds_of_repeats_never_meet():
    seeds = [repeat_seed(seed, repeat) for seed in range(50) for repeat in range(50)]
    assert len(set(seeds)) == 2500
    assert [repeat_seed(seed, 0) for seed in range(3)] == [0, 1, 2]


def test_a_context_for_tests_trains():
    assert tiny_context().train(SAMPLES)(SAMPLES.x).shape == (320, 4)
