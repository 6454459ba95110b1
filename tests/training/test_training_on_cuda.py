"""On CUDA: draws are those of the CPU, a training learns what it learns there, and leaves the process as it was.

pytest -m gpu tests/training/test_training_on_cuda.py
"""

import copy
from dataclasses import replace

import pytest
import torch

import robustsuite as rs
from robustsuite.core.streams import Streams
from robustsuite.models.build import ModelSpec
from robustsuite.testing import tiny_samples
from robustsuite.testing.victims import tiny_network, tiny_recipe
from robustsuite.training.fit import fit
from robustsuite.training.recipe import Recipe
from robustsuite.training.settings import Training

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def weights(network):
    return torch.cat([value.double().cpu().flatten() for value in network.state_dict().values()])


def settings(**changes):
    plain = tiny_recipe()
    return replace(plain, training=plain.training.override(changes))


@pytest.mark.parametrize("draw", ["bits", "uniform", "normal"])
def test_streams_draw_the_same_on_both(draw):
    streams, ids = Streams(3).child("here", 7), torch.tensor([0, 5, 2**40, 2**62])
    here, there = (getattr(streams, draw)(where, (3, 5)) for where in (ids, ids.cuda()))
    assert there.is_cuda
    if draw == "normal":  # of logarithms and cosines, whose last bits differ
        torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(there.cpu(), here)


def test_a_training_in_float64_comes_to_the_weights_of_the_cpu():
    """No dropout, whose draws come from each device's own generator."""
    training = Training(epochs=3, optimizer="sgd", lr=0.1, momentum=0.9, batch_size=16, precision="64", validation=0.1)
    recipe = Recipe(build=ModelSpec("mlp", options=(("hidden", (16,)),)), training=training)
    here, there = (fit(recipe, tiny_samples(100), 0, device=device) for device in ("cpu", "cuda"))
    torch.testing.assert_close(weights(there.network), weights(here.network), rtol=0, atol=1e-9)
    for one, other in zip(here.history, there.history, strict=True):
        assert other == pytest.approx(one, abs=1e-9)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed"])
def test_each_precision_learns(precision):
    fitted = fit(settings(precision=precision), tiny_samples(320), 0, device="cuda")
    assert {p.device.type for p in fitted.network.parameters()} == {"cuda"}
    assert {p.dtype for p in fitted.network.parameters()} == {torch.float32}
    assert fitted.history[-1]["validation_accuracy"] > 0.9


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_augmented_balanced_and_averaged_trainings_learn(mixing):
    augment = [{"crop": {"padding": 1}}, mixing]
    recipe = settings(augment=augment, sampling="balanced", ema=0.9, accumulate=2, warmup=1, epochs=10)
    assert fit(recipe, tiny_samples(320), 0, device="cuda").history[-1]["validation_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adversarial-training", {"attack": "fgsm-rs"}),
        ("trades", {"attack": {"pgd": {"steps": 2}}, "norm": "linf", "radius": 0.05}),
        ("free-training", {"replays": 2, "norm": "linf", "radius": 0.05}),
        ("dp-sgd", {"noise_multiplier": 0.5}),
    ],
)
def test_defences_train(name, options):
    plain = settings(epochs=8, optimizer="sgd", lr=0.5) if name == "dp-sgd" else settings()
    recipe = rs.defense(name, **options)(plain)
    fitted = fit(recipe, tiny_samples(320), 0, device="cuda")
    assert {p.device.type for p in fitted.network.parameters()} == {"cuda"}
    held = tiny_samples(200, first=10_000).batch(slice(None), "cuda")
    with torch.no_grad():
        assert float((fitted.network(held.x).argmax(1) == held.y).float().mean()) > 0.5  # chance is 0.25


def test_the_process_is_left_as_it_was():
    torch.cuda.manual_seed_all(11)
    flags = (torch.backends.cudnn, "allow_tf32"), (torch.backends.cuda.matmul, "allow_tf32")
    before = [getattr(*flag) for flag in flags], torch.cuda.current_device(), torch.cuda.get_rng_state()
    fit(settings(epochs=1), tiny_samples(64), 0, device="cuda")
    after = [getattr(*flag) for flag in flags], torch.cuda.current_device(), torch.cuda.get_rng_state()
    assert after[:2] == before[:2]
    assert torch.equal(after[2], before[2])


def test_a_network_of_the_cpu_is_judged_on_cuda_and_stays_where_it_was():
    network, samples = copy.deepcopy(tiny_network()), tiny_samples(24, first=10_000)
    report = rs.evaluate(network, samples, attacks=["pgd"], threat=("linf", 0.1), device="cuda")
    assert [record.status for record in report.records] == ["ok", "ok"]
    assert {p.device.type for p in network.parameters()} == {"cpu"}
