"""The user's own training: what it is given, what it may not leave behind, and what is kept of it."""

import random

import numpy as np
import own_trainings as own
import pytest
import torch

import robustsuite as rs
from robustsuite.core.errors import ModelError, RequestError
from robustsuite.models.build import ModelSpec
from robustsuite.storage.store import Store
from robustsuite.testing import tiny_samples
from robustsuite.training import GradientDescent, Job, Produced, Recipe, Trainer, Training
from robustsuite.training.built import built_digest
from robustsuite.training.fit import fit
from robustsuite.training.own import OwnTraining

SAMPLES = tiny_samples(240)
HERE = own.__file__


@pytest.fixture(autouse=True)
def _no_calls():
    own.CALLS.clear()


def by_file(name, build=None, **settings):
    """The recipe as a suite makes it, with the function named by its file."""
    return Recipe.by(f"{HERE}:{name}", build, **settings)


def answers(trained):
    return trained.model(SAMPLES.inputs()).logits


# --- what the function is given, and what comes out ---


def test_the_function_is_given_a_copy_and_trains_what_is_deployed():
    trained = Trainer(2**40 + 3)(Recipe.by(own.loop), SAMPLES)
    ((given, seed, device),) = own.CALLS
    assert (seed, device) == (3, "cpu")  # no greater one than NumPy takes
    assert given is not SAMPLES
    assert torch.equal(given.x, SAMPLES.x)
    assert float((answers(trained).argmax(1) == SAMPLES.y).float().mean()) > 0.9
    assert trained.facts["trained_by"] == {"function": "loop", "seed": 3, "samples": 240}
    assert trained.facts["train_seconds"] > 0
    assert not trained.model.network.training


def test_stored_bytes_are_given_as_the_raw_inputs_that_networks_see():
    stored = rs.Samples((SAMPLES.x * 255).round().to(torch.uint8), SAMPLES.y, 4, bounds=(-1.0, 1.0))
    Trainer(0)(Recipe.by(own.loop), stored)
    given = own.CALLS[0][0]
    assert torch.equal(given.x, stored.inputs())
    assert given.x.min() < -0.25


def test_preparing_repairing_and_serving_act_around_it():
    def without_a_class(samples, context):
        return Produced(samples.take(samples.y != 0), {"left": "all but 0"})

    def shifted(network, context):
        with torch.no_grad():
            network[1].bias[1] += 100.0
        return network

    recipe = Recipe.by(own.loop).with_prepare(without_a_class).with_repair(shifted)
    trained = Trainer(0)(recipe, SAMPLES)
    assert set(own.CALLS[0][0].y.tolist()) == {1, 2, 3}
    assert answers(trained).argmax(1).unique().tolist() == [1]
    assert trained.facts["prepare"][0]["left"] == "all but 0"
    served = rs.defense("input-validation", detectors=["range"])(Recipe.by(own.loop))
    assert len(served.serve) == 1


def test_doubts_of_what_prepares_and_repairs_around_it_are_kept():
    recipe = Recipe.by(own.loop).with_prepare(lambda samples, context: Produced(samples, flags=("one",)))
    recipe = recipe.with_repair(lambda network, context: Produced(network, flags=("two",)))
    assert Trainer(0)(recipe, SAMPLES).flags == ("one", "two")


def test_what_it_asks_for_by_name_builds_the_network_of_the_recipe():
    recipe = Recipe.by(own.tuned, ModelSpec("mlp", options=(("hidden", (16,)),)), options={"steps": 60})
    trained = Trainer(0)(recipe, SAMPLES)
    assert sum(weights.numel() for weights in trained.model.network.parameters()) == 64 * 16 + 16 + 16 * 4 + 4
    assert float((answers(trained).argmax(1) == SAMPLES.y).float().mean()) > 0.9
    drawn = []

    def builds_two(samples, build):
        drawn.extend((build(), build()))
        return drawn[0]

    Trainer(0)(Recipe.by(builds_two, ModelSpec("logistic")), SAMPLES)
    one, other = (next(net.parameters()) for net in drawn)
    assert not torch.equal(one, other)  # members of an ensemble do not start alike


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Recipe.by(own.tuned), "asks for build"),
        (lambda: Recipe.by(own.loop, options={"epochs": 3}), "expected a parameter of loop, got epochs=3"),
        (lambda: Recipe.by(lambda data: data), "expected a value for parameter 'data'"),
        (lambda: Recipe.by(3), "expected a training function, got factory=3"),
        (lambda: Recipe.by(f"{HERE}:lop"), "did you mean loop"),
        (lambda: Recipe.by(own.loop, ModelSpec("cnn")), "hides its network"),
    ],
)
def test_what_could_not_be_called_is_refused_before_anything_is_trained(make, told):
    with pytest.raises(RequestError, match=told):
        make()
    assert own.CALLS == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda recipe: rs.defense("adversarial-training", norm="linf", radius=0.1)(recipe), "loss.*AdversarialLoss"),
        (lambda recipe: rs.defense("dp-sgd", epsilon=3.0)(recipe), "optimizer.*dp-sgd"),
        (lambda recipe: recipe.with_update_around(lambda update: (update,)), "optimizer"),
        (lambda recipe: recipe.with_augment(lambda batch, streams: batch), "batches"),
        (lambda recipe: Recipe(build=recipe.build, own=recipe.own, training=Training(epochs=9)), "'epochs': 9"),
        (lambda recipe: Recipe(build=ModelSpec("cnn"), own=recipe.own), "network"),
    ],
)
def test_a_part_that_the_function_hides_cannot_be_replaced(change, told):
    with pytest.raises(RequestError, match=f"(?s){told}.*hides its"):
        change(Recipe.by(own.loop))


def test_a_stage_trains_by_the_function_too_and_by_settings_only_what_it_says_itself():
    seen = []

    def asks(network, context):
        seen.append(context.train(SAMPLES))
        seen.append(context.train(SAMPLES, build=ModelSpec("logistic"), training=Training(epochs=1)))
        with pytest.raises(RequestError, match="hides its network"):
            context.train(SAMPLES, build=ModelSpec("logistic"))
        with pytest.raises(RequestError, match="says how its network is built"):
            context.train(SAMPLES, training=Training(epochs=1))
        return network

    Trainer(0)(Recipe.by(own.loop).with_repair(asks), SAMPLES)
    first, second = (seed for _, seed, _ in own.CALLS)
    assert first == 0 != second
    assert type(seen[0]).__name__ == "Sequential"
    assert type(seen[1]).__name__ == "Network"


# --- what it does wrong ---


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("raises", RuntimeError, "no luck with 240 samples"),
        ("exits", SystemExit, "3"),
        ("nothing", RequestError, "it returned str: return the trained network"),
        ("too_narrow", ModelError, "what too_narrow trained cannot be judged.*must score every class"),
        ("not_finite", ModelError, "what not_finite trained.*finite logits"),
        ("of_other_inputs", ModelError, "what of_other_inputs trained.*got RuntimeError"),
    ],
)
def test_what_is_no_network_of_these_data_is_an_error(name, error, told):
    with pytest.raises(error, match=f"(?s){told}"):
        Trainer(0)(Recipe.by(getattr(own, name)), SAMPLES)


def test_probabilities_are_an_error_that_names_the_wrap():
    with pytest.raises(ModelError, match=r'rs.wrap\(model, output="probabilities"\)'):
        Trainer(0)(Recipe.by(own.pipeline, options={"answer": "predict_proba"}), SAMPLES)
    trained = Trainer(0)(Recipe.by(own.pipeline, options={"answer": "predict_log_proba"}), SAMPLES)
    assert float((answers(trained).argmax(1) == SAMPLES.y).float().mean()) > 0.9


def test_what_it_writes_to_its_samples_reaches_nobody():
    before = SAMPLES.digest()
    trained = Trainer(0)(Recipe.by(own.writes), SAMPLES)
    assert SAMPLES.intact()
    assert SAMPLES.digest() == before
    assert torch.equal(answers(trained), answers(Trainer(0)(Recipe.by(own.loop), SAMPLES)))


def test_what_it_leaves_of_the_process_is_put_back():
    def state():
        drawn = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        exact = torch.are_deterministic_algorithms_enabled()
        return *drawn, torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), exact

    before = state()
    trained = Trainer(0)(Recipe.by(own.careless), SAMPLES)
    assert state() == before
    assert not trained.model.network.training
    assert all(weights.grad is None for weights in trained.model.network.parameters())


def test_it_may_train_inside_a_callers_no_grad_and_whatever_the_default_dtype():
    straight = answers(Trainer(0)(Recipe.by(own.loop), SAMPLES))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            trained = Trainer(0)(Recipe.by(own.loop), SAMPLES)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(answers(trained), straight)


def test_a_network_that_is_trained_again_does_not_change_the_one_before():
    recipe = Recipe.by(own.one_and_the_same)
    first = Trainer(0)(recipe, SAMPLES)
    before = answers(first).detach().clone()
    flipped = SAMPLES.with_rows(torch.arange(240), SAMPLES.inputs(), (SAMPLES.y + 1) % 4)
    second = Trainer(0)(recipe, flipped)
    assert torch.equal(answers(first), before)
    assert not torch.equal(answers(second), before)


class Uncopied(own.Scored):
    def __deepcopy__(self, memo):
        raise TypeError("an open session")


def test_one_that_cannot_be_copied_is_taken_once():
    session = Uncopied(own.pipeline(SAMPLES, 0).pipeline)
    recipe = Recipe.by(lambda samples: session)
    Trainer(0)(recipe, SAMPLES)
    with pytest.raises(RequestError, match=r"return a new one each time.*an open session"):
        Trainer(0)(recipe, SAMPLES)


# --- keys, and what is kept ---


def test_what_is_rebuilt_from_its_state_is_kept_and_recalled(tmp_path):
    recipe = by_file("tuned", ModelSpec("mlp", options=(("hidden", (16,)),)))
    trained = Trainer(0, stores=(Store(tmp_path),))(recipe, SAMPLES)
    again = Trainer(0, stores=(Store(tmp_path),))(recipe, SAMPLES)
    assert len(list((tmp_path / "models").glob("*.safetensors"))) == 1
    assert torch.equal(answers(trained), answers(again))
    assert dict(again.facts) == dict(trained.facts)


@pytest.mark.parametrize("name", ["loop", "pipeline"])
def test_a_network_that_only_the_function_knows_is_trained_once_a_process(tmp_path, name):
    store = Store(tmp_path)
    one, other = (Trainer(0, stores=(store,)) for _ in range(2))
    first, same, again = (trainer(by_file(name), SAMPLES) for trainer in (one, one, other))
    assert first.facts["train_seconds"] == same.facts["train_seconds"] != again.facts["train_seconds"]
    assert torch.equal(answers(first), answers(same))
    assert torch.equal(answers(first), answers(again))
    assert not (tmp_path / "models").exists()
    told = store.told()
    assert len(set(told)) == 1
    assert "for it alone knows its network" in told[0]
    with torch.no_grad():  # whoever is given a network may write to it
        for weights in same.model.network.parameters():
            weights.zero_()
    assert torch.equal(answers(one(by_file(name), SAMPLES)), answers(first))


def test_a_network_that_answers_by_more_than_its_state_is_not_kept(tmp_path, monkeypatch):
    code = """
import torch
from torch import nn

def net(classes):
    hidden = []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, classes)

        def learn(self):
            hidden.append(5.0)

        def forward(self, x):
            return self.layer(x.flatten(1)) + sum(hidden) * torch.arange(classes).float()

    return Net()

def fit(build):
    made = build()
    made.learn()
    return made
"""
    file = tmp_path / "secret.py"
    file.write_text(code)
    store = Store(tmp_path / "kept")
    recipe = Recipe.by(f"{file}:fit", ModelSpec(factory=f"{file}:net"))
    trained = Trainer(0, stores=(store,))(recipe, SAMPLES)
    assert answers(trained).argmax(1).unique().tolist() == [3]
    assert store.get("models", Trainer(0).key(recipe, SAMPLES)) is None
    assert "is not kept" in store.told()[0]


def test_of_a_function_that_is_given_itself_nothing_is_kept(tmp_path):
    trainer = Trainer(0, stores=(Store(tmp_path),))
    shift = [1.0]

    def closes_over(samples):
        net = own.flat(samples)
        torch.nn.init.constant_(net[1].weight, shift[0])
        return net

    first = trainer(Recipe.by(closes_over), SAMPLES)
    shift[0] = 2.0
    assert not torch.equal(answers(first), answers(trainer(Recipe.by(closes_over), SAMPLES)))
    assert not list(tmp_path.iterdir())


def test_what_reads_elsewhere_is_neither_kept_nor_recalled(tmp_path):
    recipe = by_file("tuned", ModelSpec("logistic"), cache=False)
    kept = by_file("tuned", ModelSpec("logistic"))
    trainer = Trainer(0, stores=(Store(tmp_path),))
    trainer(recipe, SAMPLES)
    trainer(recipe, SAMPLES)
    assert not (tmp_path / "models").exists()
    assert trainer.key(recipe, SAMPLES) != trainer.key(kept, SAMPLES)


def test_a_key_holds_the_function_its_local_modules_and_its_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, beside, other = tmp_path / "train_it.py", tmp_path / "steps_of_it.py", tmp_path / "apart.py"
    file.write_text("from steps_of_it import STEPS\n\ndef fit(samples, steps=STEPS):\n    return None\n")
    beside.write_text("STEPS = 3\n")
    other.write_text("x = 1\n")

    def key(**settings):
        return Trainer(0).key(Recipe.by("train_it.py:fit", **settings), SAMPLES)

    first = key()
    other.write_text("# a comment elsewhere\nx = 1\n")
    assert key() == first
    beside.write_text("STEPS = 4\n")
    second = key()
    assert second != first
    file.write_text(file.read_text().replace("None", "samples"))
    assert key() not in (first, second)
    assert len({key(), key(options={"steps": 3}), key(options={"steps": 4}), key(cache=False)}) == 4
    assert Trainer(1).key(Recipe.by("train_it.py:fit"), SAMPLES) != key()


# --- jobs ---


def test_shadow_models_come_from_seeds_of_their_own(tmp_path):
    recipe, trainer = by_file("loop"), Trainer(0, stores=(Store(tmp_path),))
    jobs = [Job.of("shadow", recipe, SAMPLES.take(slice(half, None, 2)), 0, half) for half in (0, 1)]
    jobs += [Job.of("shadow", recipe, SAMPLES, 0, number) for number in (2, 3)]
    trained = [answers(trainer.job(job)) for job in jobs]
    assert len({job.seed for job in jobs} | {0}) == 5
    assert all(not torch.equal(a, b) for i, a in enumerate(trained) for b in trained[:i])
    assert all(torch.equal(answers(trainer.job(job)), found) for job, found in zip(jobs, trained, strict=True))


def test_equal_recipes_say_the_same_and_hide_what_does_not_apply():
    recipe = by_file("loop")
    assert recipe == by_file("loop")
    told = recipe.description()
    assert sorted(told) == ["build", "prepare", "repair", "serve", "training"]
    assert told["training"] == {"is": "OwnTraining", "factory": f"{HERE}:loop", "options": {}, "cache": True}
    assert isinstance(recipe.own, OwnTraining)
    assert isinstance(recipe.update, GradientDescent)
    assert built_digest(recipe, 4, (1, 8, 8), (0.0, 1.0), 0) == ""
    assert fit(recipe, SAMPLES, 0).history == ()
